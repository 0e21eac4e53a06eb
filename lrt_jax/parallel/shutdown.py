"""SIGTERM, Ctrl-C and a closed terminal, handled whatever the main thread is in."""

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


def install_handlers(handler: Callable) -> dict[int, object]:
    """Installs a handler for each signal of `NAMES`, but for SIGHUP where `nohup` wants it ignored.

    Returns:
      The handlers of before, by signal.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    caught = [number for number in NAMES if number != signal.SIGHUP or not ignored]
    return {number: signal.signal(number, handler) for number in caught}


class StopSignals:
    """Calls a function on each stop signal. A context manager, of the main thread.

    The function runs in a thread of its own, by `signal.set_wakeup_fd`: Python's handlers wait for
    the main thread, which may be compiling, and what they raise may be lost in a destructor.

    Args:
      on_signal: called with the signal's number, in a thread.
    """

    def __init__(self, on_signal: Callable[[int], None]):
        self._on_signal = on_signal
        self._receiver, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._receive, daemon=True, name="stop signals")

    def __enter__(self) -> "StopSignals":
        self._before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        signal.set_wakeup_fd(self._before)
        self._wake.close()  # ends the thread, which may be the caller or busy

    def _receive(self) -> None:
        with self._receiver:
            while byte := self._receiver.recv(1):
                if byte[0] in NAMES:
                    self._on_signal(byte[0])


class ShutdownHandler:
    """Ends a command that is asked to: in order if its main thread can, and anyhow soon after."""

    def __init__(self):
        self._reported = False

    def in_order(self, number: int, frame: object = None) -> NoReturn:
        """A handler: what is half done is put away on the way out."""
        self._report(number)
        raise SystemExit(128 + number)

    def anyhow(self, number: int) -> None:
        """Ends the process from another thread, after a time for the main one to end in order."""
        time.sleep(IN_ORDER)
        self._report(number)
        processes.end(128 + number, f"stopped by {NAMES[number]}")

    def _report(self, number: int) -> None:
        if not self._reported:
            self._reported = True
            print(f"stopped by {NAMES[number]}; what is whole stays, {GOES_ON}", flush=True)


def pass_over_exits(unraisable) -> None:
    """A `sys.unraisablehook`: an exit that was raised in a destructor needs no trace."""
    if not isinstance(unraisable.exc_value, SystemExit):
        sys.__unraisablehook__(unraisable)
