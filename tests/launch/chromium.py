"""A headless Chromium to look at a page with, over the DevTools protocol on two pipes.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

INSTALLED = shutil.which("chromium") is not None

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)

SETTLED = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))"


class Page:
    """A page that is loaded and drawn. width: of the screen, in pixels. requests: every address that it asked for.
    complaints: what it wrote to the console, errors, and what its security policy refused."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes], path: Path, width: int, touch: bool) -> None:
        self.width = width
        self._commands, self._answers, self._number = commands, answers, 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=touch)
        self._call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self._call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._read()
        self.run(SETTLED)

    @property
    def requests(self) -> list[str]:
        return [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[str]:
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self._events if event["method"] in names]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        """The next message; events are kept."""
        text = bytearray()
        while (letter := self._answers.read(1)) != b"\0":
            if not letter:
                raise RuntimeError("Chromium has ended.")
            text += letter
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._events.append(message)
        return message


@contextmanager
def opened(path: Path, profile: Path, width: int = 1280, touch: bool = False) -> Iterator[Page]:
    """The HTML file in a Chromium of its own. profile: an empty folder. touch: as on a phone."""
    their_input, commands = os.pipe()
    answers, their_output = os.pipe()
    # It reads commands from descriptor 3 and writes to 4.
    process = subprocess.Popen(
        ["bash", "-c", 'exec chromium "$@" 3<&"$IN" 4>&"$OUT"', "bash", *FLAGS, f"--user-data-dir={profile}"],
        env={**os.environ, "IN": str(their_input), "OUT": str(their_output)},
        pass_fds=(their_input, their_output),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_input)
    os.close(their_output)
    try:
        with os.fdopen(commands, "wb") as to, os.fdopen(answers, "rb") as back:
            yield Page(to, back, path, width, touch)
    finally:
        process.terminate()
        process.wait(30)
