"""Hooks of MkDocs: generated sections, and files from outside of docs/.

A line `::: parts attacks` of a page becomes a section for each attack.
"""

import functools
import importlib
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Files of the repository that are pages of the site, and the pictures that
# they and the pages of docs/ show. In the site they have their own paths.
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
_PICTURES = "results/**/*.png"

_PARTS = re.compile(r"^::: parts (\w+)$", re.MULTILINE)
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")


@functools.cache
def outside() -> list[str]:
    """The files outside of docs/ that the site takes in, by their paths."""
    pictures = sorted(ROOT.glob(_PICTURES))
    return [*PAGES, *(p.relative_to(ROOT).as_posix() for p in pictures)]


def on_files(files, config):
    """Adds the files from outside of docs/."""
    from mkdocs.structure.files import File

    for path in outside():
        files.append(
            File.generated(config, path, abs_src_path=str(ROOT / path))
        )
    return files


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

    def link(found):
        path = os.path.normpath(os.path.join(here, found[2]))
        path = os.path.relpath(path.removeprefix("docs/"), there)
        return found[1] + path

    return _LINK.sub(link, markdown)
