"""The processes of a run: how they find one another, wait for one another, and end together.

Of several processes none can go on without the others: a step is one program on all devices. So
decisions are compared, or broadcast by the first; and where one process fails or is lost, all end,
with a line that names it (see `watchdog`).
"""

import contextlib
import json
import os
import re
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lrt_jax.parallel.platform import tpu_attached
from lrt_jax.parallel.watchdog import FOREVER, LOST, Watch

PATIENCE = 60.0  # seconds without a sign of life
CONNECT_TIMEOUT = 300.0  # seconds for all to start
BARRIER_TIMEOUT = 600.0  # seconds from the first process at a barrier to the last
WORK_TIMEOUT = FOREVER  # the same, where the others wait for what one does
CAME, AGREED, BROADCAST = (f"lrt_jax/{name}" for name in ("came", "agreed", "broadcast"))

_watch: Watch | None = None
_times: Counter[str] = Counter()  # that something was asked; the same in every process


# ---------------------------------------------------------------------------- joining


def initialize(
    coordinator_address: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    patience: float = PATIENCE,
) -> None:
    """Joins the processes of a run, if there are several; call it before a device is touched.

    On TPU VMs, whose metadata name the others, nothing need be given; elsewhere all three. Where
    not all come within `CONNECT_TIMEOUT` seconds, those that did end with a line about it.

    Args:
      coordinator_address: host and port of process 0.
      num_processes: how many there are; 1 for this one alone, on a TPU VM too.
      process_id: which of them this is.
      patience: seconds after which a process that shows no sign of life counts as lost.

    Raises:
      ValueError: only some of the three are given, or they cannot be; or the processes differ in
        `patience`.
    """
    if num_processes == 1:
        return
    given = bool(coordinator_address), num_processes > 0, process_id >= 0
    if not any(given):
        _find_others(patience)
        return
    if not all(given):
        raise ValueError(
            "--coordinator_address, --num_processes and --process_id go together: give all three, "
            "or none where the environment names the processes"
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process_id={process_id}: the last of {num_processes} processes is "
            f"{num_processes - 1}"
        )
    if not re.fullmatch(r".+:\d+", coordinator_address):
        raise ValueError(f"--coordinator_address={coordinator_address}: give HOST:PORT")
    _initialize(patience, coordinator_address, num_processes, process_id)


def _find_others(patience: float) -> None:
    """Joins the processes that the environment names, if it names any."""
    named = "JAX_COORDINATOR_ADDRESS" in os.environ
    tpu = tpu_attached() and "tpu" in os.environ.get("JAX_PLATFORMS", "tpu")
    if not named and not tpu:
        return
    try:
        _initialize(patience)
    except ValueError as error:
        # JAX asks a TPU VM's metadata; a TPU machine without them stands alone.
        if named or "coordinator_address should be defined" not in str(error):
            raise


def _initialize(patience: float, *cluster) -> None:
    """Lets JAX join the processes, and watches over them from then on."""
    global _watch
    import jax  # not above: commands say what is wrong with their flags before it is there

    # JAX ends a process without a word of ours where it finds another one lost, so it comes second.
    limits = {
        "initialization_timeout": int(CONNECT_TIMEOUT) + 60,
        "heartbeat_timeout_seconds": int(3 * patience) + 10,
    }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    waiting = threading.Timer(CONNECT_TIMEOUT, _nobody_came, cluster)
    waiting.start()
    try:
        jax.distributed.initialize(*cluster, **limits)
    finally:
        waiting.cancel()
    signal.signal(signal.SIGTERM, on_sigterm)  # which JAX has taken, to look at it between steps
    if count() > 1:
        _watch = Watch(_client(), index(), count(), patience)
        _watch.start()
        # Signs of life come by each process's own: with another, one would seem lost that is not.
        assert_equal("--patience", f"{patience:g}")


def _nobody_came(address: str = "", count: int = 0, index: int = -1) -> NoReturn:
    """Ends a process that waits for the others to join; who is missing only JAX's service knows."""
    where = f": this is process {index} of {count}, and process 0 is {address}" if count else ""
    alone = "; --num_processes=1 is for one alone" if not count else ""
    print(
        f"waited {CONNECT_TIMEOUT:g} s, and not all processes came{where}; look at those that do "
        f"not say this, and start all again{alone}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)


def _client():
    """JAX's, of the coordinator and its key-value store."""
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()


def index() -> int:
    """Which of the processes this is."""
    return _jax().process_index() if _joined() else 0


def count() -> int:
    """How many processes there are."""
    return _jax().process_count() if _joined() else 1


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return index() == 0


def _joined() -> bool:
    """Whether there is a cluster; a process that has not even loaded JAX is in none."""
    return "jax" in sys.modules and _jax().distributed.is_initialized()


def _jax():
    return sys.modules["jax"]


# ---------------------------------------------------------------------------- waiting


def barrier(name: str, patience: float = BARRIER_TIMEOUT) -> None:
    """Waits until all processes have come here.

    Args:
      name: of the barrier, for people: what each has done when it comes.
      patience: seconds to wait for the last.

    Raises:
      TimeoutError: some did not come; they are named.
    """
    if count() == 1:
        return
    client, key = _client(), _fresh_key(f"{CAME}/{name}")
    client.key_value_set(f"{key}/{index()}", "")
    try:
        client.wait_at_barrier(key, int(1000 * patience))
    except RuntimeError as error:  # JAX's own
        missing = sorted({*range(count())} - _by_index(client, key).keys())
        if "DEADLINE_EXCEEDED" not in str(error) or not missing:
            raise
        raise TimeoutError(
            f"waited {patience:g} s for {_named(missing)} to come to: {name}"
        ) from error


def assert_equal(what: str, value: str) -> None:
    """Checks that a value is the same in all processes.

    Args:
      what: for people.
      value: to compare.

    Raises:
      ValueError: some have another than the first process; they are named.
    """
    if count() == 1:
        return
    client, key = _client(), _fresh_key(f"{AGREED}/{what}")
    client.key_value_set(f"{key}/{index()}", value)
    barrier(f"comparing the {what}")
    found = _by_index(client, key)
    if others := sorted(i for i in found if found[i] != found[0]):
        raise ValueError(
            f"{_named(others)} of {len(found)} has another {what} than process 0: "
            f"{found[others[0]]}, not {found[0]}; give all processes the same"
        )


def broadcast(what: str, value: Any) -> Any:
    """The first process's value, in every process.

    Args:
      what: a name for it.
      value: of the first process; JSON.
    """
    if count() == 1:
        return value
    client, key = _client(), _fresh_key(f"{BROADCAST}/{what}")
    if is_first():
        client.key_value_set(key, json.dumps(value))
    return json.loads(client.blocking_key_value_get(key, int(1000 * WORK_TIMEOUT)))


def check_shared(folder: Path) -> None:
    """Checks that all processes see the same folder, in which they make something together.

    Raises:
      FileNotFoundError: this process does not see what the first wrote there.
    """
    if count() == 1:
        return
    mark = folder / broadcast("mark", f".seen-by-all-{uuid.uuid4().hex}")
    if is_first():
        mark.touch()
    barrier("the workdir is marked")
    seen = mark.exists()
    barrier("the workdir is looked at")
    if is_first():
        mark.unlink()
    if not seen:
        raise FileNotFoundError(
            f"{folder}: process {index()} does not see there what process 0 has written; name "
            "a folder that all hosts share"
        )


def _fresh_key(name: str) -> str:
    """A fresh key of the store for each call, the same in all processes."""
    _times[name] += 1
    return f"{name}/{_times[name]}"


def _by_index(client, key: str) -> dict[int, str]:
    found = client.key_value_dir_get(f"{key}/")
    return {int(key.rpartition("/")[2]): value for key, value in found}


def _named(indices: list[int]) -> str:
    return f"process{'es' * (len(indices) > 1)} {', '.join(map(str, indices))}"


# ---------------------------------------------------------------------------- ending together


class EndTogether(SystemExit):
    """An end that all processes have agreed upon; it has a code."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What all processes of a run do: where it fails in one, the others get the reason and end."""
    try:
        yield
    except BaseException as error:
        if _watch is not None and not isinstance(error, EndTogether):
            _watch.fail(error)
        raise
    finally:
        if _watch is not None:
            barrier("the end", WORK_TIMEOUT)
            _watch.leave()


def end(code: int, why: str) -> NoReturn:
    """Ends this process at once, from any thread; the others get the reason and end with it."""
    if _watch is not None:
        _watch.end(code, why)
    sys.stdout.flush()
    os._exit(code)
