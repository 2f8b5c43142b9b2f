"""The calls between functions: depth, recursion, and total size."""

from collections.abc import Iterable
from collections.abc import Iterator

from ib_keras.audit.safety.report import Limits
from ib_keras.audit.safety.report import Problem
from ib_keras.audit.safety.report import over
from ib_keras.audit.safety.report import shown


def of_value(value) -> Iterator[str]:
    """Names of the functions in an `AttrValue`, with repetitions."""
    kind = value.WhichOneof("value")
    if kind not in ("func", "list"):
        return
    for function in [value.func] if kind == "func" else value.list.func:
        if function.name:
            yield function.name
        for below in function.attr.values():
            yield from of_value(below)


def of_nodes(nodes) -> list[str]:
    """Names of the functions that nodes call, once per call."""
    return [
        name
        for node in nodes
        for value in node.attr.values()
        for name in of_value(value)
    ]


def closure(names: Iterable[str], callees: dict[str, list[str]]) -> set[str]:
    """The functions that are called when those of `names` are."""
    pending, found = list(names), set()
    while pending:
        name = pending.pop()
        if name in callees and name not in found:
            found.add(name)
            pending += callees[name]
    return found


def check(
    callees: dict[str, list[str]], sizes: dict[str, int], limits: Limits
) -> list[Problem]:
    """The problems of the calls between functions.

    Args:
        callees: Function -> those that it calls, once per call.
        sizes: Function -> number of its nodes.
        limits: On depth, and on nodes with all calls in place.

    Returns:
        The first problem found, or none.
    """
    order, looped = _from_below(callees)
    if looped is not None:
        return [Problem(f"the function {shown(looped)}, which calls itself")]
    depths: dict[str, int] = {}
    totals: dict[str, int] = {}
    for name in order:
        below = [other for other in callees[name] if other in callees]
        depths[name] = 1 + max((depths[other] for other in below), default=0)
        # With two calls at each depth, forty functions are 10^12 nodes.
        totals[name] = sizes[name] + sum(totals[other] for other in below)
    depth = max(depths.values(), default=0)
    total = max(totals.values(), default=0)
    return [
        *over("max_depth", depth, f"calls {depth} functions deep", limits),
        *over(
            "max_calls",
            total,
            f"a function of {total:.6g} nodes with all calls in place",
            limits,
        ),
    ]


def _from_below(callees):
    """The functions, each after those that it calls; one that calls itself."""
    order, state = [], {}
    for first in callees:
        pending = [(first, iter(callees[first]))] if first not in state else []
        while pending:
            name, below = pending[-1]
            state[name] = "open"
            for other in below:
                if state.get(other) == "open":
                    return order, other
                if other in callees and other not in state:
                    pending.append((other, iter(callees[other])))
                    break
            else:
                state[name] = "done"
                order.append(name)
                pending.pop()
    return order, None
