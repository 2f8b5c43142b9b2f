"""A stand-in for `huggingface_hub`: a hub in a folder, and a cache of links."""

import fnmatch
import pathlib
import shutil
import types

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(types.ModuleType):
    """The module, for `sys.modules`.

    Args:
        folder: Empty. `hub/ORG/NAME` in it is a repository.
    """

    def __init__(self, folder: pathlib.Path):
        super().__init__("huggingface_hub")
        self.folder = folder
        self.constants = types.SimpleNamespace(HF_HOME=str(folder / "home"))
        self.asked = []

    def repository(self, name: str) -> pathlib.Path:
        """The folder of a repository, with what the hub puts in each."""
        path = self.folder / "hub" / name
        path.mkdir(parents=True, exist_ok=True)
        (path / ".gitattributes").touch()
        (path / "README.md").write_text("A model.")
        return path

    def snapshot_download(self, name, *, revision, allow_patterns):
        """As the real one lays a snapshot: links into a folder of blobs."""
        self.asked.append((name, revision))
        source = self.folder / "hub" / name
        if not source.is_dir():
            raise FileNotFoundError(f"404 Client Error\n{name} is not there")
        cache = self.folder / "home/hub" / f"models--{name.replace('/', '--')}"
        snapshot = cache / "snapshots" / COMMIT
        (cache / "blobs").mkdir(parents=True, exist_ok=True)
        snapshot.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(sorted(source.rglob("*"))):
            below = file.relative_to(source).as_posix()
            if file.is_dir() or not any(
                fnmatch.fnmatch(below, pattern) for pattern in allow_patterns
            ):
                continue
            shutil.copy(file, cache / "blobs" / str(number))
            link = snapshot / below
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(cache / "blobs" / str(number))
        return str(snapshot)
