"""Prints the oldest releases that setup.py allows, for `pip install -c`.

python tests/support/lowest.py >constraints.txt
"""

import ast
import pathlib
import re
import sys

SETUP = pathlib.Path(__file__).parents[2] / "setup.py"
_RANGE = re.compile(r"([\w-]+)>=([\w.]+),<[\w.]+")


def constraints(source: str) -> list[str]:
    """`name==oldest` for each range in the source of setup.py, sorted."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = filter(None, map(_RANGE.fullmatch, texts))
    return sorted({f"{match[1]}=={match[2]}" for match in found})


if __name__ == "__main__":
    sys.stdout.writelines(
        f"{line}\n" for line in constraints(SETUP.read_text())
    )
