"""A headless Chromium, spoken to over a pipe in the DevTools protocol.

So tests see what the browser saw: its requests, its complaints, its layout at
a given width, what a screen reader is told, and the page on paper.
"""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
)

# The protocol wants its pipes to be the descriptors 3 and 4.
_MOVE_PIPES = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Tab:
    """One tab; `events` holds what the browser reported, in order."""

    def __init__(self, reader, writer):
        self._reader = reader
        self._writer = writer
        self._count = 0
        self._session = None
        self.events = []
        target = self.send("Target.createTarget", url="about:blank")
        session = self.send(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = session["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: str, width: int = 1100, scheme: str = "light") -> None:
        """Loads a local page and waits until all of it is there."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.events.clear()
        self.send("Page.navigate", url=pathlib.Path(path).as_uri())
        while not self.named("Page.loadEventFired"):
            self._read()
        self.evaluate("0")  # What was on its way is now in `events`.

    def named(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of one kind."""
        return [e["params"] for e in self.events if e["method"] == method]

    def requests(self) -> list[str]:
        """All addresses asked for, other than data in the page itself."""
        asked = self.named("Network.requestWillBeSent")
        addresses = [event["request"]["url"] for event in asked]
        return [a for a in addresses if not a.startswith("data:")]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, of CSP among others."""
        entries = self.named("Log.entryAdded")
        return [
            *(entry["entry"]["text"] for entry in entries),
            *map(str, self.named("Runtime.exceptionThrown")),
            *map(str, self.named("Runtime.consoleAPICalled")),
        ]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def roles(self) -> list[tuple[str, str]]:
        """(role, name) of all that a screen reader is told of."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [
            (
                node.get("role", {}).get("value", ""),
                node.get("name", {}).get("value", ""),
            )
            for node in nodes
            if not node.get("ignored")
        ]

    def picture(self) -> bytes:
        """The whole page as PNG."""
        height = self.evaluate("document.documentElement.scrollHeight")
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self.send(
            "Page.captureScreenshot", captureBeyondViewport=True, clip=clip
        )
        return base64.b64decode(answer["data"])

    def paper(self) -> bytes:
        """The page as printed, PDF."""
        answer = self.send("Page.printToPDF", printBackground=False)
        return base64.b64decode(answer["data"])

    def _read(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            assert byte, "Chromium has gone"
            data += byte
        message = json.loads(data)
        if "method" in message:
            self.events.append(message)
        return message


@contextlib.contextmanager
def start() -> Iterator[Tab]:
    """Starts a browser with a profile of its own; skips where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _MOVE_PIPES),
                *(str(commands_out), str(answers_in)),
                program,
                *_FLAGS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(commands_out, answers_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands_out)
        os.close(answers_in)
        try:
            with (
                os.fdopen(answers_out, "rb") as reader,
                os.fdopen(commands_in, "wb", buffering=0) as writer,
            ):
                tab = Tab(reader, writer)
                yield tab
                with contextlib.suppress(AssertionError, OSError):
                    tab._session = None
                    tab.send("Browser.close")
        finally:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
