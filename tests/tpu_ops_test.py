"""Every program that runs on a device has kernels on a TPU, by their table."""

import functools

import pytest
import tensorflow as tf

from configs import cifar10_ceb
from configs import cifar10_deterministic
from configs import cifar10_vib
from ib_keras import export
from tests.support import runs
from tpu_check import ops
from tpu_check import programs

CONFIGS = {
    "vib": cifar10_vib,
    "ceb": cifar10_ceb,
    "deterministic": cifar10_deterministic,
}
IMAGE_SHAPE = (8, 8, 3)
BATCH = 4
ATTACKS = {label: rest for label, *rest in programs.attack_cases()}


@functools.cache
def parts(bottleneck, encoder="mlp", precision="float32"):
    """The CIFAR-10 experiment with fewer weights."""
    changes = {"precision": precision, "bottleneck.latent_dim": 12}
    if encoder == "mlp":
        changes["encoder"] = {"name": "mlp", "hidden_units": (8,)}
    else:
        changes["encoder.hidden_units"] = (8,)
    preset = CONFIGS[bottleneck].get_config("smoke")
    config = runs.plain(preset, changes)
    return programs.build(config, IMAGE_SHAPE, batch_size=BATCH)


def check(program):
    assert not ops.unsupported(program.graph()), program.name


@pytest.mark.parametrize("bottleneck", CONFIGS)
def test_steps_and_endpoints(bottleneck):
    made = parts(bottleneck)
    check(programs.train_step(made, BATCH))
    check(programs.eval_step(made, BATCH))
    for program in programs.endpoints(made, BATCH):
        check(program)


@pytest.mark.parametrize("bottleneck", ["vib", "deterministic"])
def test_every_endpoint_of_a_model_in_bfloat16_and_in_float32(
    bottleneck, tmp_path
):
    """All that is in the SavedModel is here, by its own list."""
    made = parts(bottleneck, precision="bfloat16")
    path = str(tmp_path / "model")
    export.save(made.model, path, image_shape=IMAGE_SHAPE, metadata={})
    saved = set(tf.saved_model.load(path).signatures) - {"serving_default"}
    assert ("stochastic_float32" in saved) == made.model.is_stochastic
    programs_of_it = list(programs.endpoints(made, BATCH))
    assert {p.name.removeprefix("endpoint ") for p in programs_of_it} == saved
    for program in programs_of_it:
        check(program)


def test_steps_of_the_residual_network_in_bfloat16():
    made = parts("ceb", "preact_resnet18", "bfloat16")
    check(programs.train_step(made, BATCH))
    check(programs.eval_step(made, BATCH))


@pytest.mark.parametrize("label", ATTACKS)
def test_attacks(label):
    section, norm = ATTACKS[label]
    # A noisy model's graph takes several times as long to trace.
    bottleneck = "vib" if "num_eot" in section else "deterministic"
    logits_fn = programs.logits_of(parts(bottleneck))
    made = programs.attack(logits_fn, label, section, norm, BATCH, IMAGE_SHAPE)
    names = [(program.name, check(program)) for program in made]
    assert len(names) >= 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_judge(norm):
    check(programs.judge(programs.logits_of(parts("vib")), norm, 4, (8, 8, 3)))


def test_all_attacks_but_the_foreign_ones_are_here():
    names = {label.split()[0] for label in ATTACKS}
    assert {"pgd", "apgd", "fab", "square", "multi_targeted"} <= names
    assert "cleverhans" not in names


# What must be caught.


def test_python_in_the_train_step_is_caught():
    program = programs.train_step(parts("vib"), BATCH, planted=True)
    (found,) = ops.unsupported(program.graph())
    assert found.startswith("EagerPyFunc")


PLANTED = {
    "EagerPyFunc": lambda x: tf.py_function(tf.abs, [x], tf.float32),
    "PyFunc": lambda x: tf.numpy_function(abs, [x], tf.float32),
    "PrintV2": lambda x: tf.print(x),
    "AsString": lambda x: tf.strings.as_string(x),
    "LogMatrixDeterminant": lambda x: tf.linalg.slogdet(x),
    # A kernel there is, but not for this type.
    "Cholesky": lambda x: tf.linalg.cholesky(tf.cast(x, tf.complex128)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_has_no_kernel_is_caught_in_inner_functions_too(name):

    @tf.function
    def inner(x):
        PLANTED[name](x)

    @tf.function
    def program(x):
        for _ in tf.range(2):
            if tf.reduce_sum(x) > 0:
                inner(x)
        return x + 1.0

    graph = program.get_concrete_function(tf.TensorSpec([3, 3])).graph
    assert any(line.startswith(name) for line in ops.unsupported(graph))
