"""One of several processes that share a model; run by test_sharing.py.

    python -m tests.models.sharing_process ORDER FOLDER ADDRESS COUNT INDEX

Loads its part of a checkpoint, writes what it holds to a file of its own, saves the model together
with the others, and tells what is said of a checkpoint with numbers that are not finite.
"""

import json
import pickle
import sys
from pathlib import Path

import jax
import numpy as np

from lrt_jax.models import load_model, save_pretrained
from lrt_jax.models.checkpoint_folder import TensorFiles
from lrt_jax.parallel.mesh import make_mesh


def main(order: dict, folder: Path, address: str, count: int, index: int) -> None:
    """Loads and saves with the others."""
    jax.distributed.initialize(address, count, index)
    mesh, sizes = make_mesh(fsdp=count), []

    def read_and_count(files, name, place):
        value = read(files, name, place)
        sizes.append(value.size)
        return value

    read, TensorFiles.read = TensorFiles.read, read_and_count
    _, params = load_model(order["model"], mesh=mesh)
    numbers = sum(sizes)
    held = sum(x.addressable_data(0).size for x in jax.tree.leaves(params))
    save_pretrained(params, order["saved"], source=order["model"], max_shard_size="60KB")
    there = sorted(path.name for path in Path(order["saved"]).iterdir())
    try:
        load_model(order["broken"], mesh=mesh)
        said = "nothing"
    except ValueError as error:
        said = str(error)
    _, own = load_model(order["model"])  # without a mesh: a copy of its own
    alone = [np.asarray(leaf) for leaf in jax.tree.leaves(own)]
    (folder / f"{index}.pickle").write_bytes(pickle.dumps((held, numbers, there, said, alone)))
    jax.distributed.shutdown()


if __name__ == "__main__":
    _, order, folder, address, count, index = sys.argv
    main(json.loads(order), Path(folder), address, int(count), int(index))
