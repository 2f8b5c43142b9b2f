"""The manual's sections on parts, read from their sources.

A part is described by the docstrings of its module and of the class that its
`build` returns; its fields are the arguments of `build`. Nothing is imported,
so TensorFlow is not needed.
"""

import ast
import inspect
import pathlib
from typing import Any
from typing import NamedTuple

import griffe

from ib_keras import introspection
from ib_keras import plugins

PACKAGE = pathlib.Path(plugins.__file__).parent

# Arguments of `build` that come from the library and not from a config.
GIVEN = ("image_shape", "num_classes", "steps_per_epoch")


class Field(NamedTuple):
    """A field of a part's section in a config.

    Attributes:
        name: Of the argument of `build`.
        default: As Python writes it; empty where there is none.
        meaning: From the docstrings; empty where they do not say.
    """

    name: str
    default: str
    meaning: str


def markdown(package: str) -> str:
    """A section for each part of a package.

    Args:
        package: "attacks", "bottlenecks", "data" or "encoders".
    """
    return "\n\n".join(_section(package, n) for n in plugins.names(package))


def _section(package: str, name: str) -> str:
    module, built, _ = _docs(package, name)
    found = fields(package, name)
    return "\n\n".join(
        [
            f"### `{name}` {{ #{package}-{name} }}",
            _text(module),
            *([_text(built)] if built else []),
            _table(found) if found else "It has no fields.",
            *_references(module + built),
        ]
    )


def fields(package: str, name: str) -> list[Field]:
    """The fields of a part, in the order of its `build`."""
    _, built, build = _docs(package, name)
    said = _arguments(build) | _arguments(built)
    return [
        Field(p.name, _default(p.default), said.get(p.name, ""))
        for p in plugins.parameters(package, name)
        if p.name not in GIVEN and p.kind is not p.VAR_KEYWORD
    ]


def _docs(package: str, name: str) -> tuple[list, list, list]:
    """Docstrings of the module, of the class that is built, and of build()."""
    path = PACKAGE / package / f"{name}.py"
    tree = ast.parse(path.read_bytes())
    build = introspection.function(path, "build")
    used = {n.id for n in ast.walk(build) if isinstance(n, ast.Name)}
    built = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in used
    ]
    return _parsed(tree), _parsed(*built[:1]), _parsed(build)


def _parsed(node: Any = None) -> list[griffe.DocstringSection]:
    text = ast.get_docstring(node) if node else None
    return griffe.Docstring(text or "").parse("google", warnings=False)


def _text(sections) -> str:
    return "\n\n".join(s.value for s in sections if s.kind.value == "text")


def _arguments(sections) -> dict[str, str]:
    return {
        argument.name: " ".join(argument.description.split())
        for section in sections
        if section.kind.value == "parameters"
        for argument in section.value
    }


def _references(sections) -> list[str]:
    found = [
        " ".join(section.value.contents.split())
        for section in sections
        if section.kind.value == "admonition" and section.title == "References"
    ]
    return [f"*Source:* {text}" for text in dict.fromkeys(found)]


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    return ast.unparse(value) if isinstance(value, ast.AST) else repr(value)


def _table(found: list[Field]) -> str:
    rows = ["| field | default | meaning |", "|---|---|---|"]
    for field in found:
        default = f"`{field.default}`" if field.default else "must be given"
        meaning = field.meaning.replace("|", "\\|")
        rows.append(f"| `{field.name}` | {default} | {meaning} |")
    return "\n".join(rows)
