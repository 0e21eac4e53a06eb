"""SIGTERM, Ctrl-C and a closed terminal, heard whatever the main thread is in."""

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from lrt_jax.parallel import processes

NAMES = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGINT: "Ctrl-C",
    signal.SIGHUP: "SIGHUP (the terminal was closed)",
}
GOES_ON = "the same command goes on"
IN_ORDER = 3.0  # seconds for the main thread to put away what is half done


def listen(handler: Callable) -> dict[int, object]:
    """Installs a handler for each signal of `NAMES`, but for SIGHUP where `nohup` wants it ignored.

    Returns:
      The handlers of before, by signal.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heard = [number for number in NAMES if number != signal.SIGHUP or not ignored]
    return {number: signal.signal(number, handler) for number in heard}


class StopSignals:
    """Calls a function for each while it is open. A context manager, of the main thread.

    Handlers of Python wait until the main thread leaves what it is in, such as a compilation, and
    what they raise may be lost in somebody's destructor or callback; the byte that is written
    beside them is not.

    Args:
      heard: called with the signal's number, in a thread.
    """

    def __init__(self, heard: Callable[[int], None]):
        self._call = heard
        self._heard, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="stop signals")

    def __enter__(self) -> "StopSignals":
        self._before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        signal.set_wakeup_fd(self._before)
        self._wake.close()  # ends the thread, which may be the caller or busy

    def _listen(self) -> None:
        with self._heard:
            while byte := self._heard.recv(1):
                if byte[0] in NAMES:
                    self._call(byte[0])


class ShutdownHandler:
    """Ends a command that is asked to: in order if its main thread can, and anyhow soon after."""

    def __init__(self):
        self._told = False

    def in_order(self, number: int, frame: object = None) -> NoReturn:
        """A handler: what is half done is put away on the way out."""
        self._tell(number)
        raise SystemExit(128 + number)

    def anyhow(self, number: int) -> None:
        """For another thread: the main one may be in something long, or have lost the exception."""
        time.sleep(IN_ORDER)
        self._tell(number)
        processes.end(128 + number, f"stopped by {NAMES[number]}")

    def _tell(self, number: int) -> None:
        if not self._told:
            self._told = True
            print(f"stopped by {NAMES[number]}; what is whole stays, {GOES_ON}", flush=True)


def pass_over_exits(unraisable) -> None:
    """A `sys.unraisablehook`: an exit that was raised in a destructor needs no trace."""
    if not isinstance(unraisable.exc_value, SystemExit):
        sys.__unraisablehook__(unraisable)
