"""Looking after the other processes of a run, so that none waits for one that is lost."""

import contextlib
import itertools
import os
import platform
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

LOST = 75  # exit code: another process is gone, start all again (EX_TEMPFAIL of sysexits.h)
NOBODY = -1  # in place of the index of a process that ended
LONGEST = 500  # characters of a reason that the others are sent
FAREWELL = 2.0  # seconds from the last word of the coordinator to its end
BEATS = 6  # signs of life in the time of patience
FOREVER = 7 * 24 * 3600.0
ALIVE, ENDED = "lrt_jax/alive", "lrt_jax/ended"
# Of errors that JAX raises where another process is gone.
_FOR_WANT_OF_ANOTHER = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")


class Watch:
    """Shows the others that this process is alive, and ends it where one of them is not.

    Threads do so, through the key-value store of JAX's coordinator, which is process 0.

    Args:
      client: JAX's, of the coordinator.
      index: of this process.
      count: of all.
      patience: seconds after which a process that shows no sign of life counts as lost.
    """

    def __init__(self, client, index: int, count: int, patience: float):
        self._client, self._index, self._count = client, index, count
        self._patience = patience
        self._answered = time.monotonic()  # when the coordinator last did
        self._hosts: dict[int, str] = {}
        self._gone, self._ending = threading.Event(), threading.Lock()
        self._speaking = threading.Lock()
        self._threads = [
            threading.Thread(target=work, daemon=True, name=f"watch{work.__name__}")
            for work in (self._beat, self._await_end, self._time)
        ]

    def start(self) -> None:
        """Begins to show signs of life, and to look for the others'."""
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Ends the watch in order, when all have come to the end."""
        self._gone.set()
        if self._index == 0:
            self._client.key_value_set(ENDED, f"{NOBODY}:0:")  # all wait for it
        for thread in self._threads:
            thread.join()

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process for an error, which is shown, and sent to the others."""
        code, why = _code_and_reason(error)
        self._show(error)
        if any(sign in why for sign in _FOR_WANT_OF_ANOTHER):
            self._gone.wait(1.5 * self._patience)  # where one is lost, it is named in this time
        self.end(code, why)

    def _show(self, error: BaseException) -> None:
        """Prints the error, unless this process ends because another did."""
        with self._speaking:
            followed = self._ending.locked()
            if not followed and not isinstance(error, SystemExit):
                traceback.print_exception(error)
            elif not followed and isinstance(error.code, str):
                print(error.code, file=sys.stderr, flush=True)
        if followed:
            time.sleep(FOREVER)  # another thread ends this process

    def end(self, code: int, why: str) -> NoReturn:
        """Ends this process with a code, and tells the others why; they end with the same code."""
        self._publish(self._index, code, f"{self._name(self._index)} ended: {why[:LONGEST]}")
        self._exit(code)

    def _beat(self) -> None:
        """Shows a sign of life again and again, and looks for those of the others."""
        seen = {i: ("", time.monotonic()) for i in range(self._count)}
        for number in itertools.count():
            with contextlib.suppress(RuntimeError):  # `_time` sees to it if that goes on
                sign = f"{number} {platform.node()}"
                self._client.key_value_set(f"{ALIVE}/{self._index}", sign, True)
                found = self._client.key_value_dir_get(f"{ALIVE}/")
                now = self._answered = time.monotonic()
                for key, sign in found:
                    other = int(key.rpartition("/")[2])
                    if seen[other][0] != sign:
                        seen[other] = sign, now
                        self._hosts[other] = sign.partition(" ")[2]
                lost = [i for i, (_, when) in seen.items() if now - when > self._patience]
                if lost:
                    self._lose(lost)
            if self._gone.wait(self._patience / BEATS):
                return

    def _await_end(self) -> None:
        """Waits for a process to say why it ends, or for the coordinator's end."""
        while not self._gone.is_set():
            try:
                message = self._client.blocking_key_value_get(ENDED, int(1000 * FOREVER))
            except RuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error) and not self._gone.is_set():
                    self._follow(LOST, f"{self._name(0)}, which coordinates them, is gone")
                continue
            who, code, why = message.split(":", 2)
            if int(who) not in (self._index, NOBODY):
                self._follow(int(code), why)
            return

    def _time(self) -> None:
        """Looks whether the coordinator answers at all: a call to one that is frozen hangs."""
        while not self._gone.wait(self._patience / BEATS):
            if time.monotonic() - self._answered > self._patience * (1 + 1 / BEATS):
                self._lose([0])

    def _lose(self, lost: list[int]) -> NoReturn:
        who = ", ".join(map(self._name, lost))
        why = f"{who} showed no sign of life for {self._patience:g} s"
        if 0 not in lost:  # a call to a coordinator that is frozen hangs
            self._publish(lost[0], LOST, why)
        self._follow(LOST, why)

    def _publish(self, about: int, code: int, why: str) -> None:
        """Says to all why they end, unless another has."""
        with contextlib.suppress(RuntimeError):
            self._client.key_value_set(ENDED, f"{about}:{code}:{why}")

    def _follow(self, code: int, why: str) -> NoReturn:
        """Ends this process since another did."""
        if not self._ending.acquire(blocking=False):
            time.sleep(FOREVER)  # another thread ends this process
        remedy = "; start all again, and they go on from the last checkpoint" * (code == LOST)
        with self._speaking:
            print(f"ended, since {why}{remedy}", file=sys.stderr, flush=True)
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        if self._index == 0:
            time.sleep(FAREWELL)  # with the coordinator all words end, and JAX ends who is left
        os._exit(code)  # in order it would wait for the others

    def _name(self, index: int) -> str:
        host = f" ({self._hosts[index]})" if index in self._hosts else ""
        return f"process {index} of {self._count}{host}"


def _code_and_reason(error: BaseException) -> tuple[int, str]:
    """What to exit with, and why, in a line."""
    if not isinstance(error, SystemExit):
        return 1, f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error.code, str):
        return 1, error.code.removeprefix("error: ").splitlines()[0]
    code = error.code or 0
    by_signal = signal.Signals(code - 128).name if code > 128 else ""
    return code, f"stopped by {by_signal}" if by_signal else f"exit code {code}"
