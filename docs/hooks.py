"""Hooks of MkDocs: generated sections, notebooks, and files outside of docs/.

A line `::: parts attacks` of a page becomes a section for each attack. A
notebook of docs/notebooks/ becomes a page with its text, code and outputs.
"""

import functools
import importlib
import json
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Files of the repository that are pages of the site, and the pictures that
# they and the pages of docs/ show. In the site they have their own paths.
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
_PICTURES = "results/**/*.png"

# Each is a page of the same name.
_NOTEBOOKS = "docs/notebooks/*.ipynb"

_PARTS = re.compile(r"^::: parts (\w+)$", re.MULTILINE)
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")


@functools.cache
def outside() -> list[str]:
    """The files outside of docs/ that the site takes in, by their paths."""
    pictures = sorted(ROOT.glob(_PICTURES))
    return [*PAGES, *(p.relative_to(ROOT).as_posix() for p in pictures)]


@functools.cache
def notebooks() -> dict[str, str]:
    """The notebooks: page among the site's sources -> path of the file."""
    found = sorted(ROOT.glob(_NOTEBOOKS))
    return {
        f"notebooks/{path.stem}.md": path.relative_to(ROOT).as_posix()
        for path in found
    }


def on_files(files, config):
    """Adds the files from outside of docs/, and the pages of notebooks."""
    from mkdocs.structure.files import File

    for path in outside():
        files.append(
            File.generated(config, path, abs_src_path=str(ROOT / path))
        )
    for page, path in notebooks().items():
        text = notebook(ROOT / path)
        files.append(File.generated(config, page, content=text))
    return files


def notebook(path: pathlib.Path) -> str:
    """A notebook as Markdown: its text, its code, and the saved outputs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell)) + "\n"


def _cell(cell) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [_block("python", source), *map(_output, cell["outputs"])]


def _output(output) -> str:
    """The richest form of an output that a page can show."""
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f"![What the code draws](data:image/png;base64,{picture})"
    if "text/html" in data:
        return "".join(data["text/html"])
    return _block("text", "".join(output.get("text") or data["text/plain"]))


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def on_page_markdown(markdown, page, config, files):
    """Writes the generated sections, and links as the site has them."""
    markdown = _PARTS.sub(lambda found: _parts(found[1]), markdown)
    return relinked(page.file.src_uri, markdown)


def _parts(package: str) -> str:
    # MkDocs may run in an environment that ib_keras is not installed in.
    sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
    try:
        return importlib.import_module("parts").markdown(package)
    finally:
        del sys.path[:2]


def relinked(page: str, markdown: str) -> str:
    """Turns links between files of the repository into those of the site.

    Args:
        page: Path of the page among the site's sources, such as "safety.md".
        markdown: Its text, with links as they are right in the repository.

    Returns:
        The text, with links between the site's sources.
    """
    source = page if page in PAGES else f"docs/{page}"
    here, there = os.path.dirname(source), os.path.dirname(page) or "."
    pages = {path: name for name, path in notebooks().items()}

    def link(found):
        path = os.path.normpath(os.path.join(here, found[2]))
        path = pages.get(path, path)
        path = os.path.relpath(path.removeprefix("docs/"), there)
        return found[1] + path

    return _LINK.sub(link, markdown)
