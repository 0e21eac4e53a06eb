"""The processes of a run: how they find one another, wait for one another, and end together.

Of several processes none can go on without the others: a step is one program on all devices. So
each tells the others that it is alive, and why it ends; where one is lost, all end within the
patience, with a line that names it, and the same commands go on from the last checkpoint.
"""

import contextlib
import itertools
import os
import platform
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from lrt_jax.parallel.platform import tpu_attached

LOST = 75  # exit code: another process is gone, start all again (EX_TEMPFAIL of sysexits.h)
PATIENCE = 60.0  # seconds without a sign of life
JOINING = 300.0  # seconds for all to start
MEETING = 600.0  # seconds between the first and the last that come to a meeting
WORK = 7 * 24 * 3600.0  # the same, where one does what the others wait for, however long
LONGEST = 500  # characters of a reason that the others are told
NOBODY = -1  # in place of the index of a process that failed
FAREWELL = 2.0  # seconds from the last word of the coordinator to its end
BEATS = 6  # signs of life in the time of patience

ALIVE, ENDED, CAME = (f"lrt_jax/{name}" for name in ("alive", "ended", "came"))

_watch: "Watch | None" = None
_meetings: Counter[str] = Counter()


# ---------------------------------------------------------------------------- joining


def join(
    coordinator_address: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    patience: float = PATIENCE,
) -> None:
    """Joins the processes of a run, if there are several; call it before a device is touched.

    On TPU VMs, whose metadata name the others, nothing need be given; elsewhere all three.

    Args:
      coordinator_address: host and port of process 0.
      num_processes: how many there are.
      process_id: which of them this is.
      patience: seconds after which a process that shows no sign of life counts as lost.

    Where not all come within `JOINING` seconds, those that did end with a line about it.

    Raises:
      ValueError: only some of the three are given, or they cannot be.
    """
    given = bool(coordinator_address), num_processes > 0, process_id >= 0
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator_address, --num_processes and --process_id go together: give all three, "
            "or none where the environment names the processes"
        )
    if all(given) and process_id >= num_processes:
        raise ValueError(
            f"--process_id={process_id}: the last of {num_processes} processes is "
            f"{num_processes - 1}"
        )
    if all(given):
        _initialize(patience, coordinator_address, num_processes, process_id)
    else:
        _find_others(patience)


def _find_others(patience: float) -> None:
    """Joins the processes that the environment names, if it names any."""
    named = "JAX_COORDINATOR_ADDRESS" in os.environ
    if not named and not tpu_attached():
        return
    try:
        _initialize(patience)
    except ValueError as error:
        # JAX asks a TPU VM's metadata; a TPU machine without them stands alone.
        if named or "coordinator_address should be defined" not in str(error):
            raise


def _initialize(patience: float, *place) -> None:
    """Lets JAX join the processes, and watches over them from then on."""
    global _watch
    import jax  # not above: commands say what is wrong with their flags before it is there

    # JAX ends a process without a word of ours where it finds another one lost, so it comes second.
    limits = {
        "initialization_timeout": int(JOINING) + 60,
        "heartbeat_timeout_seconds": int(3 * patience) + 10,
    }
    waiting = threading.Timer(JOINING, _nobody_came, place)
    waiting.start()
    try:
        jax.distributed.initialize(*place, **limits)
    finally:
        waiting.cancel()
    if jax.process_count() > 1:
        _watch = Watch(patience)
        _watch.start()


def _nobody_came(address: str = "", count: int = 0, index: int = -1) -> NoReturn:
    where = f": this is process {index} of {count}, and process 0 is {address}" if count else ""
    _say(f"waited {JOINING:g} s, and not all processes came{where}; start all again")
    os._exit(LOST)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return index() == 0


def index() -> int:
    """Which of the processes this is."""
    return 0 if _watch is None else _watch.index


# ---------------------------------------------------------------------------- waiting


def meet(name: str, patience: float = MEETING) -> None:
    """Waits until all processes have come here.

    Args:
      name: of the place, for people: what each has done when it comes.
      patience: seconds to wait for the last.

    Raises:
      TimeoutError: some did not come; they are named.
    """
    if _watch is None:
        return
    client = _watch.client
    _meetings[name] += 1
    place = f"{name}/{_meetings[name]}"
    client.key_value_set(f"{CAME}/{place}/{_watch.index}", "")
    try:
        client.wait_at_barrier(f"lrt_jax/{place}", int(1000 * patience))
    except RuntimeError as error:  # JAX's own
        came = {
            int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(f"{CAME}/{place}")
        }
        missing = [i for i in range(_watch.count) if i not in came]
        raise TimeoutError(
            f"waited {patience:g} s for {_named(missing)} to come to: {name}"
        ) from error


def agree(what: str, value: str) -> None:
    """Checks that all processes have the same of something that none may have of its own.

    Args:
      what: for people.
      value: to compare.

    Raises:
      ValueError: some have another than the first process; they are named.
    """
    if _watch is None:
        return
    client = _watch.client
    key = f"lrt_jax/agree/{what}/{_meetings[what] + 1}"
    client.key_value_set(f"{key}/{_watch.index}", value)
    meet(what)
    found = {int(k.rpartition("/")[2]): v for k, v in client.key_value_dir_get(key)}
    if others := sorted(i for i in found if found[i] != found[0]):
        raise ValueError(
            f"{_named(others)} of {len(found)} has another {what} than process 0: "
            f"{found[others[0]]}, not {found[0]}; give all processes the same"
        )


def check_shared(folder: Path) -> None:
    """Checks that all processes see the same folder, in which they make something together.

    Raises:
      FileNotFoundError: this process does not see what the first wrote there.
    """
    if _watch is None:
        return
    key = f"lrt_jax/mark/{folder}"
    if is_first():
        _watch.client.key_value_set(key, f".seen-by-all-{uuid.uuid4().hex}")
    mark = folder / _watch.client.blocking_key_value_get(key, int(1000 * MEETING))
    if is_first():
        mark.touch()
    meet("the workdir is marked")
    seen = mark.exists()
    meet("the workdir is looked at")
    if is_first():
        mark.unlink()
    if not seen:
        raise FileNotFoundError(
            f"{folder}: process {_watch.index} does not see there what process 0 has written; name "
            "a folder that all hosts share"
        )


def _named(indices: list[int]) -> str:
    return f"process{'es' * (len(indices) > 1)} {', '.join(map(str, indices))}"


# ---------------------------------------------------------------------------- ending together


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What all processes of a run do: where it fails in one, the others are told why and end."""
    try:
        yield
    except BaseException as error:
        if _watch is not None and not isinstance(error, EndTogether):
            _watch.fail(error)
        raise
    finally:
        if _watch is not None:
            meet("the end", WORK)
            _watch.leave()


class EndTogether(SystemExit):
    """An end that all processes have agreed upon; it has a code."""


class Watch:
    """Looks after the other processes, in threads.

    Args:
      patience: seconds after which a process that shows no sign of life counts as lost.
      say: told, in a line, why this process ends.
    """

    def __init__(self, patience: float, say: Callable[[str], None] | None = None):
        import jax
        from orbax.checkpoint import multihost

        self.client = multihost.get_jax_distributed_client()
        self._patience, self._say = patience, say or _say
        self.index, self.count = jax.process_index(), jax.process_count()
        self._answered = time.monotonic()  # when the coordinator last did
        self._hosts: dict[int, str] = {}
        self._gone, self._ending = threading.Event(), threading.Lock()
        self._threads = [
            threading.Thread(target=work, daemon=True, name=f"watch{work.__name__}")
            for work in (self._beat, self._listen, self._time)
        ]

    def start(self) -> None:
        """Begins to show signs of life, and to look for the others'."""
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Ends the watch in order, when all have come to the end."""
        self._gone.set()
        if self.index == 0:
            self.client.key_value_set(ENDED, f"{NOBODY}:")  # all listen for it
        for thread in self._threads:
            thread.join()

    def fail(self, error: BaseException) -> NoReturn:
        """Tells the others why this process ends, and ends it."""
        if _may_be_for_want_of_another(error):
            self._gone.wait(2 * self._patience)  # where one is lost, it is found and named first
        if isinstance(error, SystemExit):
            told, shown = str(error.code).removeprefix("error: "), f"{error.code}\n"
        else:
            told = f"{type(error).__name__}: {error}"
            shown = "".join(traceback.format_exception(error))
        sys.stderr.write(shown)
        self._tell(self.index, f"{self._name(self.index)} ended: {told[:LONGEST]}")
        self._exit(1)

    def _beat(self) -> None:
        """Shows a sign of life again and again, and looks for those of the others."""
        seen = {i: ("", time.monotonic()) for i in range(self.count)}
        host = platform.node()
        for number in itertools.count():
            try:
                self.client.key_value_set(f"{ALIVE}/{self.index}", f"{number} {host}", True)
                found = dict(self.client.key_value_dir_get(f"{ALIVE}/"))
            except RuntimeError:
                return  # told by `_listen`
            now = self._answered = time.monotonic()
            for key, sign in found.items():
                other = int(key.rpartition("/")[2])
                if seen[other][0] != sign:
                    seen[other] = sign, now
                    self._hosts[other] = sign.partition(" ")[2]
            lost = [i for i, (_, when) in seen.items() if now - when > self._patience]
            if lost:
                self._lose(lost)
            if self._gone.wait(self._patience / BEATS):
                return

    def _listen(self) -> None:
        """Waits for a process to say why it ends, or for the coordinator's end."""
        while not self._gone.is_set():
            try:
                told = self.client.blocking_key_value_get(ENDED, int(1e6 * self._patience))
            except RuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error) and not self._gone.is_set():
                    self._end(f"{self._name(0)}, which coordinates them, is gone")
                continue
            who, _, why = told.partition(":")
            if int(who) not in (self.index, NOBODY):
                self._end(why)
            return

    def _time(self) -> None:
        """Looks whether the coordinator answers at all: a call to one that is frozen hangs."""
        while not self._gone.wait(self._patience / BEATS):
            if time.monotonic() - self._answered > self._patience * (1 + 1 / BEATS):
                self._lose([0])

    def _lose(self, lost: list[int]) -> NoReturn:
        who = ", ".join(map(self._name, lost))
        why = f"{who} showed no sign of life for {self._patience:g} s"
        self._tell(lost[0], why)  # all at once: where the coordinator ends first, JAX ends the rest
        self._end(why)

    def _tell(self, about: int, why: str) -> None:
        """Says to all why they end, unless another has, or nobody can."""
        if about != 0 or self.index == 0:  # a call to a coordinator that is frozen hangs
            with contextlib.suppress(RuntimeError):
                self.client.key_value_set(ENDED, f"{about}:{why}")

    def _end(self, why: str) -> NoReturn:
        if not self._ending.acquire(blocking=False):
            time.sleep(WORK)  # another thread ends this process
        self._say(f"ended, since {why}; start all again, and they go on from the last checkpoint")
        self._exit(LOST)

    def _exit(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        if self.index == 0:
            time.sleep(FAREWELL)  # with the coordinator all words end, and JAX ends who is left
        os._exit(code)  # in order it would wait for the others

    def _name(self, index: int) -> str:
        host = f" ({self._hosts[index]})" if index in self._hosts else ""
        return f"process {index} of {self.count}{host}"


def _may_be_for_want_of_another(error: BaseException) -> bool:
    return type(error).__name__ == "JaxRuntimeError" or "Gloo" in str(error)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
