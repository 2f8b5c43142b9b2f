"""The parts of the time to the first step."""

import contextlib
import time
from collections.abc import Iterator
from collections.abc import Mapping


class Startup:
    """Seconds of each part of a start, in their order.

    Args:
        before: Name -> seconds of parts that have ended.
    """

    def __init__(self, before: Mapping[str, float] | None = None):
        self.seconds = dict(before or {})

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures the time inside of the context."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - began

    def line(self) -> str:
        """One line with the sum and the parts."""
        parts = ", ".join(
            f"{name} {seconds:.1f}" for name, seconds in self.seconds.items()
        )
        total = sum(self.seconds.values())
        return f"First call done after {total:.1f} s: {parts}."
