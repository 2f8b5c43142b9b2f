"""Work beside the training: one piece at a time, in order, no error lost."""

import concurrent.futures
from collections.abc import Callable


class Background:
    """A thread that does what it is given while the caller goes on.

    A context: at its end the piece in flight is finished, whatever ends it.
    """

    def __init__(self):
        self._executor = concurrent.futures.ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="background"
        )
        self._piece = None

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._executor.shutdown(wait=True)
        if error is None:
            self.wait()

    def run(self, piece: Callable[[], None]) -> None:
        """Starts a piece, once the one before it is finished.

        Raises:
            BaseException: What the one before has raised.
        """
        self.wait()
        self._piece = self._executor.submit(piece)

    def check(self) -> None:
        """Raises what a finished piece has raised; never waits."""
        if self._piece is not None and self._piece.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the piece in flight.

        Raises:
            BaseException: What it has raised, once.
        """
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.result()
