"""How much batching is worth to a server: calls that come together beside calls one by one.

    python -m benchmarks.serving --calls=256 --clients=64

One process serves the model on loopback and asks it `/compare` of distinct pairs of scenes, both
orders, greedy: from one client, each call after the last, and from many clients at once; also a
server with `batch_size=1`, for which a single call is cheaper. Medians of runs that alternate.
"""

import base64
import concurrent.futures
import io
import json
import statistics
import threading
import time
from collections.abc import Sequence

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.comparisons import scene_rows
from lrt_jax import RewardModel
from lrt_jax.cli import commands
from lrt_jax.serving.limits import Limits
from tests.serving.running import Client, served


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    flags.DEFINE_string("model", "tiny", "As of RewardModel.", flag_values=values)
    flags.DEFINE_integer("calls", 256, "From many clients.", flag_values=values)
    flags.DEFINE_integer("clients", 64, "That ask at the same time.", flag_values=values)
    flags.DEFINE_integer("repeats", 3, "Of each measurement.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    calls = [_call(row) for row in scene_rows(values.calls)]
    few = calls[: max(8, len(calls) // 16)]
    batched, single = (RewardModel.from_pretrained(values.model, batch_size=x) for x in (16, 1))
    limits = Limits(calls=2 * values.clients)
    with served(batched, limits) as port, served(single, limits) as other:
        ways = {
            "together": (port, values.clients, calls),
            "one by one": (port, 1, few),
            "one by one, batch_size=1": (other, 1, few),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(values.repeats):
            for name, way in ways.items():
                rates[name].append(calls_a_second(*way))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    commands.log(json.dumps(medians))


def calls_a_second(port: int, clients: int, calls: Sequence[bytes]) -> float:
    """Of some clients, each with a connection of its own; every call must be answered."""
    mine = threading.local()

    def ask(call: bytes) -> None:
        if not hasattr(mine, "client"):
            mine.client = Client(port)
        status, answer = mine.client.post("/compare", call)
        assert status == 200, answer

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, calls))
    return len(calls) / (time.perf_counter() - began)


def _call(row: dict) -> bytes:
    files = {name: _png(row[name]) for name in ("first", "second")}
    return json.dumps({"caption": row["caption"], **files}).encode()


def _png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    commands.run(main, define_flags)
