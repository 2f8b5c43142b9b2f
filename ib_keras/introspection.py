"""What a module defines, read from its source without importing it.

Importing a part can import TensorFlow, and runs the user's code; a command that
refuses a wrong name does neither.
"""

import ast
import importlib.machinery
import inspect
import pathlib
import sys


def function(path: pathlib.Path, name: str) -> ast.FunctionDef | None:
    """A function that a source file defines at its top.

    Args:
        path: The file.
        name: Of the function.

    Returns:
        Its syntax tree; None where there is none, or the file is no source.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    return found[-1] if found else None


def literal(path: pathlib.Path, name: str):
    """The value of a constant that a source file assigns at its top.

    Args:
        path: The file, which can be parsed.
        name: Of the constant.

    Returns:
        Its value; None where there is none, or it is no literal.
    """
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name
            for target in node.targets
        ):
            value = _literal(node.value)
            return None if isinstance(value, ast.AST) else value
    return None


def find(name: str) -> importlib.machinery.ModuleSpec | None:
    """Finds a module, without importing it or the packages that it is in.

    Args:
        name: Dotted, as `import` takes it.

    Returns:
        Its specification; None if there is no such module.
    """
    spec, inside, path = None, "", None
    for part in name.split("."):
        if not part.isidentifier():
            return None
        inside = f"{inside}.{part}" if inside else part
        spec = _find_inside(inside, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _find_inside(name, path):
    """Finds a module in the folders of its package; None for those of sys."""
    try:
        found = (f.find_spec(name, path) for f in sys.meta_path)
        return next((spec for spec in found if spec is not None), None)
    except KeyError:
        # For a folder without __init__ in another one Python asks the outer,
        # which is not imported.
        last = name.rpartition(".")[2]
        folders = [pathlib.Path(folder, last) for folder in path]
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations += map(str, folders)
        return spec


def source(spec: importlib.machinery.ModuleSpec | None) -> pathlib.Path | None:
    """The source file of a module that was found, if it has one."""
    origin = getattr(spec, "origin", None) or ""
    return pathlib.Path(origin) if origin.endswith(".py") else None


def parameters(path: pathlib.Path, name: str) -> list[inspect.Parameter] | None:
    """Reads what a function takes.

    Args:
        path: The file that defines it.
        name: Of the function.

    Returns:
        Its parameters, with annotations as text, and as syntax trees those
        defaults that are no literals; None where they cannot be told, for
        there is no such function or a decorator decides.
    """
    found = function(path, name)
    if found is None or found.decorator_list:
        return None
    kinds, given = inspect.Parameter, found.args
    plain = [*given.posonlyargs, *given.args]
    missing = [None] * (len(plain) - len(given.defaults))
    read = [
        _parameter(argument, kinds.POSITIONAL_OR_KEYWORD, default)
        for argument, default in zip(
            plain, [*missing, *given.defaults], strict=True
        )
    ]
    read += [
        _parameter(argument, kinds.KEYWORD_ONLY, default)
        for argument, default in zip(
            given.kwonlyargs, given.kw_defaults, strict=True
        )
    ]
    if given.kwarg is not None:
        read.append(kinds(given.kwarg.arg, kinds.VAR_KEYWORD))
    return read


def _parameter(argument, kind, default) -> inspect.Parameter:
    empty, annotation = inspect.Parameter.empty, argument.annotation
    return inspect.Parameter(
        argument.arg,
        kind,
        default=empty if default is None else _literal(default),
        annotation=empty if annotation is None else ast.unparse(annotation),
    )


def _literal(node: ast.expr):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return node
