"""One of several processes that load together; run by test_worker_processes.py.

    python -m tests.data.input.loading_process ORDER FOLDER ADDRESS COUNT INDEX

Joins the others, takes batches from places that are given, and pickles them with the place after.
"""

import json
import pickle
import sys
from pathlib import Path

import jax

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.pipeline import train_loader
from tests.data.small_encoder import ENCODER


def main(order: dict, folder: Path, address: str, count: int, index: int) -> None:
    """Takes batches after every given state, and those of an epoch from the beginning."""
    jax.distributed.initialize(address, count, index)
    assert jax.process_count() == count and jax.device_count() == count
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
    (folder / f"{index}.pickle").write_bytes(pickle.dumps((epoch, resumed, state)))
    jax.distributed.shutdown()


if __name__ == "__main__":
    _, order, folder, address, count, index = sys.argv
    main(json.loads(order), Path(folder), address, int(count), int(index))
