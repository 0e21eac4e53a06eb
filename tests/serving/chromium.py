"""A real browser without a window, driven over two pipes with the DevTools protocol."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--remote-debugging-pipe", "--window-size=960,1200"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def find_chromium() -> str | None:
    """Its path, if there is one on this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page of a browser.

    Attributes:
      requested: addresses that it asked for so far.
      problems: what it wrote to its console as errors, and what its policy forbade.
    """

    def __init__(self, send: int, receive: int):
        self._send, self._receive = os.fdopen(send, "wb"), os.fdopen(receive, "rb")
        self._number, self._session, self._rest = 0, None, b""
        self.requested: list[str] = []
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for part in ("Network", "Runtime", "DOM", "Log", "Page"):
            self.call(f"{part}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers; what it tells meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            told = self._next()
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]
            self._keep(told)

    def run(self, script: str) -> Any:
        """The value of an expression, or of what it promises."""
        told = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until an expression is true, for a minute at most."""
        script = f"""new Promise((done, late) => {{
            const poll = setInterval(() => {{ if ({condition}) done(clearInterval(poll)) }}, 20);
            setTimeout(() => late(new Error("never: " + {json.dumps(condition)})), 60000);
        }})"""
        self.run(script)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.until(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def choose_file(self, selector: str, file: Path) -> None:
        """As a person chooses a file for an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._receive.fileno(), 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _keep(self, told: dict[str, Any]) -> None:
        method, params = told.get("method"), told.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A page, while it is open.

    Args:
      profile: an empty folder.
    """
    its_in, ours_out = os.pipe()
    ours_in, its_out = os.pipe()
    command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    numbered = f'exec "$0" "$@" 3<&{its_in} 4>&{its_out}'  # where it looks for its pipes
    browser = subprocess.Popen(
        ["bash", "-c", numbered, *command], pass_fds=(its_in, its_out), stderr=subprocess.DEVNULL
    )
    os.close(its_in)
    os.close(its_out)
    try:
        yield Page(ours_out, ours_in)
    finally:
        browser.kill()
        browser.wait()
