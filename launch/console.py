"""What goes to the console: text alone, whatever names are in it.

Names of protocols, stages and signatures come out of other people's files. An
escape sequence among them could move the cursor and write over a verdict.
"""

import sys

from ib_keras.errors import printable


class Plain:
    """A text stream that lets no control characters through.

    Args:
        stream: What is written to.
    """

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what of a text can be seen."""
        self._stream.write(printable(text))
        return len(text)

    def writelines(self, lines) -> None:
        """Writes texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def protect() -> None:
    """Makes both of this process' streams plain."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Plain):
            setattr(sys, name, Plain(stream))
