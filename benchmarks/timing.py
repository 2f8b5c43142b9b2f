"""Ratios of times in one run: the alternatives are run in turns.

The speed of a machine drifts, so a figure is the median over rounds of the
ratio of two consecutive times. Run it on an idle machine.
"""

import statistics
import time
from collections.abc import Callable


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def compare(
    functions: dict[str, Callable[[], object]],
    units: dict[str, int],
    reference: str,
    rounds: int = 9,
) -> dict[str, dict[str, float]]:
    """Times functions in turns.

    Args:
        functions: Name -> function without arguments; each waits for its
            result.
        units: Name -> how many steps one call makes.
        reference: The name that the others are divided by.
        rounds: Turns, after one to warm up.

    Returns:
        Name -> median milliseconds a step, and median ratio to the reference.
    """
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function) / units[name])
    table = {}
    for name, values in times.items():
        pairs = zip(values, times[reference], strict=True)
        table[name] = {
            "ms": statistics.median(values) * 1e3,
            "ratio": statistics.median(a / b for a, b in pairs),
        }
    return table


def show(title: str, table, targets: dict[str, float]) -> None:
    """Prints a table, with the target of each ratio that has one."""
    print(f"\n{title}")
    for name, row in table.items():
        target = targets.get(name)
        outcome = ""
        if target is not None:
            met = "met" if row["ratio"] <= target else "NOT MET"
            outcome = f"   target {target:.2f}: {met}"
        print(f"  {name:<34}{row['ms']:>9.2f} ms  x{row['ratio']:.3f}{outcome}")
