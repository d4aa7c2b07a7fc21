"""A headless Chromium, spoken to over a pipe (DevTools protocol): what a reader's browser makes of a page of ours."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # tests may run as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--mute-audio",
)

PATIENCE = 60.0
"""Seconds to wait for an answer before something is taken to hang."""


class BrowserFailed(Exception):
    """The browser did not answer, or answered with an error."""


def find_chromium() -> str:
    """Path of the browser. Raises BrowserFailed if there is none."""
    path = shutil.which("chromium")
    if path is None:
        raise BrowserFailed("no chromium found (on Debian: apt-get install chromium)")
    return path


class Browser:
    """One running browser. Made by :func:`browser`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._buffer = b""
        self._last = 0
        self._waiting: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of one command. Raises BrowserFailed for an error or no answer."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        wanted = self._last
        answer = self._receive(lambda found: found.get("id") == wanted)
        if "error" in answer:
            raise BrowserFailed(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def event(self, method: str, session: str) -> dict[str, Any]:
        """Parameters of the next event of this name in this session, also of one that came before."""
        found = self._receive(
            lambda message: message.get("method") == method and message.get("sessionId") == session
        )
        parameters: dict[str, Any] = found["params"]
        return parameters

    def seen(self, method: str, session: str) -> list[dict[str, Any]]:
        """Parameters of the events of this name that came so far and were not taken; they stay."""
        return [
            message["params"]
            for message in self._waiting
            if message.get("method") == method and message.get("sessionId") == session
        ]

    def _receive(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for message in self._waiting:
            if wanted(message):
                self._waiting.remove(message)
                return message
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self._next(deadline)
            if wanted(message):
                return message
            self._waiting.append(message)

    def _next(self, deadline: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(descriptor, 1 << 16) if ready else b""
            if not data:
                raise BrowserFailed("the browser does not answer")
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    @contextmanager
    def page(self, url: str, *, before: str | None = None, offline: bool = True) -> Iterator["Page"]:
        """A tab that has loaded ``url``; ``before`` runs in it before the page's own scripts."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            tab.call(f"{domain}.enable")
        if offline:
            tab.call(
                "Network.emulateNetworkConditions",
                offline=True,
                latency=0,
                downloadThroughput=-1,
                uploadThroughput=-1,
            )
        if before is not None:
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        try:
            tab.open(url)
            yield tab
        finally:
            self.call("Target.closeTarget", targetId=target)


class Page:
    """One tab."""

    def __init__(self, owner: Browser, session: str) -> None:
        self._browser = owner
        self._session = session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one DevTools command to this tab."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> Self:
        self.call("Page.navigate", url=url)
        self._browser.event("Page.loadEventFired", self._session)
        return self

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise. Raises BrowserFailed if it throws."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise BrowserFailed(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    def give_files(self, selector: str, paths: Sequence[Path]) -> None:
        """Choose ``paths`` in the file input that ``selector`` names."""
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def screenshot(self) -> bytes:
        """A PNG of what is in the window."""
        taken = self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    def problems(self) -> list[str]:
        """What the browser wrote to its console so far: violations of the content security policy, exceptions."""
        logged = [found["entry"]["text"] for found in self._browser.seen("Log.entryAdded", self._session)]
        thrown = self._browser.seen("Runtime.exceptionThrown", self._session)
        return logged + [str(found["exceptionDetails"]) for found in thrown]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = self._browser.seen("Network.requestWillBeSent", self._session)
        return [found["request"]["url"] for found in sent]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with ``profile``, a directory of its own, for its data."""
    # The pipe is read from descriptor 3 and written to 4.
    command = [
        "sh",
        "-c",
        'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null',
        "sh",
        find_chromium(),
        *FLAGS,
        f"--user-data-dir={profile}",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Browser(process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
