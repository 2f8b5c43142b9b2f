"""Progress on the console: a bar on a terminal, a line a minute elsewhere."""

import sys
import time


class Progress:
    """Counts towards a total and says how far it is and how long it will take.

    Args:
        total: What is counted to.
        unit: Name of one, such as "step".
        description: Printed in front.
        done: How much was done before, by an earlier process.
        quiet: Prints nothing.
        seconds_between_lines: Pace where there is no terminal.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        description: str,
        done: int = 0,
        quiet: bool = False,
        seconds_between_lines: float = 60.0,
    ):
        self._total = total
        self._unit = unit
        self._description = description
        self._done = self._first = done
        self._quiet = quiet
        self._pace = seconds_between_lines
        self._began = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                unit=unit,
                desc=description,
                unit_scale=True,
                dynamic_ncols=True,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *unused) -> None:
        if self._bar is not None:
            self._bar.close()

    def set_total(self, total: int) -> None:
        """Corrects the total, where less work is needed than was announced."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total

    def update(self, done: int, **facts) -> None:
        """Reports that `done` of the total are done, with a few values."""
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)
            self._bar.update(done - self._done)
            # Else new values would only be shown with progress.
            if done == self._done:
                self._bar.refresh()
        self._done = done
        now = time.monotonic()
        if self._bar is None and now - self._last_line >= self._pace:
            self._last_line = now
            self._print_line(now, facts)

    def _print_line(self, now, facts):
        if self._quiet:
            return
        parts = [
            f"{self._description}: {self._done}/{self._total} {self._unit}"
        ]
        if self._done > self._first:
            pace = (self._done - self._first) / max(now - self._began, 1e-9)
            left = max(self._total - self._done, 0) / pace
            parts.append(f"{left / 60:.1f} min left")
        parts += [f"{key} {value}" for key, value in facts.items()]
        print(", ".join(parts), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
