"""Headless Chromium over its debugging pipe (Chrome DevTools Protocol), with the standard library alone.

Chromium reads JSON messages, each ended by a zero byte, from file descriptor 3 and writes them to 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers; the page is our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
)

LAUNCHER = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]  # out of the way of 3 and 4
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
    os.close(end)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """Return the command of a Chromium, None if there is none; the variable CHROMIUM overrides the search."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a running browser."""

    def __init__(self, sending: int, receiving: int, seconds: float) -> None:
        self._sending, self._receiving, self._seconds = sending, receiving, seconds
        self._buffer, self._last, self._session, self._loaded = b"", 0, "", False
        self.complaints: list[str] = []
        """Errors and warnings that the page wrote to its console, exceptions included."""

    def attach(self) -> Self:
        """Make the page that all further calls are of."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; an error of the protocol raises `RuntimeError`."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._sending, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise RuntimeError("the browser ended") from None
        end = time.monotonic() + self._seconds
        while (answer := self._receive(end)).get("id") != self._last:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, path: Path, width: int = 1500, height: int = 1000) -> None:
        """Load a file into a window of the given size and wait until it is loaded."""
        self._loaded = False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + self._seconds
        while not self._loaded:
            self._note(self._receive(end))

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page; promises are awaited, exceptions raise `RuntimeError`."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Wait until an expression is true in the page; return its value."""
        end = time.monotonic() + self._seconds
        while not (value := self.run(condition)):
            if time.monotonic() > end:
                raise TimeoutError(f"after {self._seconds} s this is still not so: {condition}")
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        """Press a key, as a person would."""
        code = {"Tab": 9, "Escape": 27, "ArrowRight": 39, " ": 32}.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> Path:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._receiving], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the browser must answer within {self._seconds} s, but did not")
            if not (part := os.read(self._receiving, 1 << 20)):
                raise RuntimeError("the browser ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        self._loaded |= event.get("method") == "Page.loadEventFired"
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])


@contextmanager
def browsing(command: str, profile: Path, seconds: float = 90.0) -> Iterator[Browser]:
    """Run a browser with an empty profile folder; it ends with the block."""
    (read_end, sending), (receiving, write_end) = os.pipe(), os.pipe()
    start = [command, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(  # noqa: S603  (a browser that the caller found)
        [sys.executable, "-c", LAUNCHER, str(read_end), str(write_end), *start],
        pass_fds=(read_end, write_end),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_end)
    os.close(write_end)
    try:
        browser = Browser(sending, receiving, seconds).attach()
        yield browser
        browser._session = ""  # the browser's own command
        with suppress(RuntimeError, TimeoutError):
            browser.call("Browser.close")
    finally:
        os.close(sending)
        os.close(receiving)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
