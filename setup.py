"""Installs ib_keras: `pip install -e ".[cpu]"`; to work on it, `".[cpu,test]"`.

Everything about the distribution is here; pyproject.toml holds the build
system and the settings of tools.

TensorFlow is an extra, because it is not the same distribution everywhere:
`cpu` brings `tensorflow` (on a machine with a GPU, the same wheel uses it once
the CUDA libraries are there), `tpu` brings `tensorflow-tpu`, and the two write
to the same files. So nothing in INSTALL_REQUIRES may require `tensorflow`.
"""

import pathlib
import re
import shutil

from setuptools import find_packages
from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent

# The lower bound of a range is the oldest release that was tested, by `make
# test-lowest`; the upper one is the next release that may break something. What
# is exact says why.
INSTALL_REQUIRES = [
    "absl-py>=2.1,<3",
    "filelock>=3.12,<4",
    # TFDS uses it for builders that are defined outside of TFDS, and declares
    # it for old Pythons only.
    "importlib_resources>=6.4,<8",
    "jinja2>=3.1,<4",
    # Before 3.12 loading a .keras file could run code or read other files.
    "keras>=3.12,<3.16",
    "matplotlib>=3.9,<4",
    "ml-collections>=1.0,<2",
    "numpy>=2.0,<3",
    "pandas>=2.2.2,<4",
    "pyarrow>=18,<27",
    "pyyaml>=6,<7",
    "scikit-learn>=1.5,<2",
    "scipy>=1.14,<2",
    # TFP imports distutils, which Python 3.12 has from setuptools alone, and
    # TensorBoard's command imports pkg_resources, which 82 removed.
    "setuptools>=77.0.1,<82",
    "tensorboard>=2.20,<2.21",  # As TensorFlow.
    # Older ones read a field of protobuf that releases of today do not have.
    "tensorflow-datasets>=4.9.10,<5",
    # Exact: the last release, and older ones are for older TensorFlow. Without
    # its extra `tf`, which requires tf_keras, and so `tensorflow`. Has dm-tree,
    # decorator, cloudpickle and gast with it.
    "tensorflow-probability==0.25.0",
    "tqdm>=4.66,<5",
]

# The attacks of an independent library, to compare ours with. Exact: it is the
# last release, and the reference. It never requires `tensorflow`, but brings
# nose, pycodestyle, mnist and easydict.
CLEVERHANS = ["cleverhans==4.0.0"]

# Audits and sweeps on several processes or machines. `distributed` requires
# `dask` of the same release. The lower bounds are the releases that were used.
CLUSTER = ["distributed>=2026.8,<2027", "dask-jobqueue>=0.9,<0.10"]

# What builds the manual. MkDocs 2 takes neither hooks nor plugins.
DOCS = [
    "griffelib>=2.0,<3",
    "mkdocs>=1.6.1,<2",
    "mkdocs-material>=9.7,<10",
    "mkdocstrings>=1.0,<2",
    "mkdocstrings-python>=2.0,<3",
]

EXTRAS_REQUIRE = {
    # Exact: the safety check judges the operations of 2.20 by name, and 2.20 is
    # the last TensorFlow that is built for TPUs.
    "cpu": [
        "tensorflow==2.20.0",
        "tensorflow-probability[tf]==0.25.0",
        "tf_keras>=2.20.1,<2.21",
    ],
    # TFP needs tf_keras, and tf_keras requires the distribution `tensorflow`,
    # which would overwrite the files of tensorflow-tpu. So a TPU VM takes it
    # without its requirements, after the install:
    #   pip install -e ".[tpu]"
    #   pip install --no-deps "tf_keras>=2.20.1,<2.21"
    # `import tensorflow` aborts the process with libtpu 0.0.32 and later.
    "tpu": ["tensorflow-tpu==2.20.0", "libtpu>=0.0.14,<0.0.32"],
    # TF 2.20 reads and writes gs:// paths only with this.
    "gcs": ["tensorflow-io-gcs-filesystem>=0.37,<1"],
    # --saved_model=hf://ORG/NAME.
    "hub": ["huggingface_hub>=0.30,<3"],
    # Callbacks of ib_keras.tracking.
    "mlflow": ["mlflow-skinny>=2.20,<4"],
    "wandb": ["wandb>=0.19,<1"],
    "cleverhans": CLEVERHANS,
    "cluster": CLUSTER,
    "docs": DOCS,
    "test": [
        *CLEVERHANS,
        *CLUSTER,
        *DOCS,
        "hypothesis>=6.100,<7",
        "huggingface_hub>=0.30,<3",
        # What runs the manual's notebooks.
        "ipykernel>=7,<8",
        "mypy>=2.0,<3",
        "nbclient>=0.10,<1",
        "pytest>=9,<10",
        "pytest-xdist>=3.6.1,<4",
        # Exact, since another release may format differently.
        "ruff==0.17.6",
    ],
}


def read(name: str) -> str:
    """Returns the text of a file beside this one; empty if it is not there."""
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def long_description() -> str:
    """README.md without what works in a checkout alone: its files.

    Links to them become their text, pictures go.
    """
    text = re.sub(r"!\[[^]]*\]\((?!https:)[^)]*\)\n*", "", read("README.md"))
    return re.sub(r"\[([^]]*)\]\((?!https:)[^)]*\)", r"\1", text)


def version() -> str:
    """Reads the version without importing the package, which needs Keras."""
    pattern = r'^__version__ = "([^"]+)"$'
    return re.search(pattern, read("ib_keras/version.py"), re.MULTILINE)[1]


# What a checkout runs its commands from. Names so general must not land in
# site-packages, so the wheel holds them inside of the package, where
# ib_keras/__main__.py finds them.
COMMANDS = ("launch", "configs")


class BuildWithCommands(build_py):
    """Adds the commands and their configs to the package that is built."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # The checkout has them.
        for source, target in self._command_files():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=1):
        targets = [str(target) for _, target in self._command_files()]
        return super().get_outputs(include_bytecode) + targets

    def _command_files(self):
        folder = pathlib.Path(self.build_lib, "ib_keras", "_commands")
        return [
            (path, folder / path.relative_to(ROOT))
            for package in COMMANDS
            for path in sorted((ROOT / package).rglob("*"))
            if path.suffix in (".py", ".sh")
        ]


setup(
    name="ib_keras",
    version=version(),
    description=(
        "Information-bottleneck classifiers in Keras, and audits of adversarial"
        " robustness that can be trusted."
    ),
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The ib_keras authors",
    project_urls={"Paper": "https://arxiv.org/abs/2107.05712"},
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="information bottleneck, adversarial robustness, keras",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["ib_keras", "ib_keras.*"]),
    package_data={
        "ib_keras": [
            "py.typed",
            "audit/report/**/*.css",
            "audit/report/**/*.html",
            "audit/safety/*.json",
            "cluster/*.yaml",
        ],
    },
    entry_points={"console_scripts": ["ib_keras = ib_keras.__main__:script"]},
    cmdclass={"build_py": BuildWithCommands},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,
)
