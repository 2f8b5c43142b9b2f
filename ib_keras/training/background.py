"""Background work during training: one task at a time, errors are raised."""

import concurrent.futures
from collections.abc import Callable


class Background:
    """A thread that runs tasks while the caller continues.

    A context: at its end the running task is finished, also after an error.
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
        """Starts a task, after the previous one has finished.

        Raises:
            BaseException: The error of the previous task.
        """
        self.wait()
        self._piece = self._executor.submit(piece)

    def check(self) -> None:
        """Raises the error of a finished task; never waits."""
        if self._piece is not None and self._piece.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the running task.

        Raises:
            BaseException: Its error, once.
        """
        piece, self._piece = self._piece, None
        if piece is not None:
            piece.result()
