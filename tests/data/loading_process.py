"""One of several processes that load together; run by test_processes.py.

    python -m tests.data.loading_process '{"address": "127.0.0.1:1234", "count": 4, ...}'

Joins the others, takes batches from places that are given, and pickles them with the place after.
"""

import json
import os
import pickle
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.pop("XLA_FLAGS", None)

import jax

from lrt_jax.data.pipeline import train_loader
from lrt_jax.data.tables import PreparedSet
from tests.data.small_encoder import ENCODER


def main(order: dict) -> None:
    """Takes batches after every given state, and those of an epoch from the beginning."""
    jax.distributed.initialize(order["address"], order["count"], order["index"])
    assert jax.process_count() == order["count"] and jax.device_count() == order["count"]
    loader = train_loader(
        PreparedSet(order["set"]),
        ENCODER,
        **order["options"],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=2,
    )
    with loader as batches:
        epoch = [next(batches) for _ in range(order["steps"])]
        state = batches.get_state()
        resumed = []
        for place in order["places"]:
            batches.set_state(place)
            resumed.append(next(batches))
    Path(order["output"]).write_bytes(pickle.dumps((epoch, resumed, state)))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
