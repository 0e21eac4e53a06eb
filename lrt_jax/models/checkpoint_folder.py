"""Hugging Face folders: tensors in and out, one at a time, with the files that travel along."""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util
from huggingface_hub import snapshot_download, split_state_dict_into_shards_factory
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import save_file

from lrt_jax.models.weights import Block, Weight
from lrt_jax.storage.digests import file_digest
from lrt_jax.storage.disk import expanded, read_json, read_plainly

logger = logging.getLogger(__name__)

CARD = "README.md"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PIECE_BYTES = 2**24  # of a file, at most, are in memory at a time while parameters are read
LARGE = 2**30  # bytes of a file that is not read without a word
# Everything of a folder but its weights and its card.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
SETTINGS = "lrt_jax.json"  # how to ask a model that was trained here
TRAINED_ON = "trained_on.json"  # and on what it was
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def find_folder(path_or_hub_id: str | Path) -> Path:
    """A local folder as it is; anything else is downloaded from the Hub, resumably.

    Raises:
      FileNotFoundError: neither a folder nor a name that the Hub could have.
    """
    path = Path(expanded(path_or_hub_id))
    if path.is_dir():
        return path
    name = str(path_or_hub_id)
    if "://" in name:
        raise FileNotFoundError(
            f"{name}: models are read from this machine, from which all their tensors are mapped; "
            "copy the folder to it (gcloud storage rsync --recursive, for gs://), and name the copy"
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{name}: no such folder, and not a Hub id such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    patterns = [*COMPANIONS, *LICENCES, CARD, SETTINGS, TRAINED_ON, INDEX, "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # of the Hub's client, of HTTP, of the network
        raise FileNotFoundError(
            f"{name}: no such folder here, and the Hub did not give it ({error}); download it and "
            "name its folder, such as --config.model.path=FOLDER"
        ) from error


def folder_digest(folder: str | Path, *, announce: bool = False) -> str:
    """Digest of a checkpoint, by which a resumed run knows that its weights are the same.

    Every byte counts of weights, config, tokenizer and processor; see `file_digest` for when they
    are read.

    Args:
      folder: Hugging Face folder.
      announce: whether it is logged where large files have to be read.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*")):
        if path.suffix == ".safetensors" or path.name in COMPANIONS:
            known = file_digest(path, functools.partial(_announce, path) if announce else None)
            digest.update(f"{path.name} {known}\n".encode())
    return digest.hexdigest()


def _announce(path: Path, size: int) -> None:
    if size > LARGE:
        logger.info(f"reading all of {path}, {size / 1e9:.1f} GB, for its digest")


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Where a tensor is, what it is called there, and its shape and dtype as the library says."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


class TensorFiles:
    """The tensors of a folder, under hub names whichever of the two layouts is on disk.

    Each read opens its file anew: mapped pages count as this process's memory until it is closed.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._tensors: dict[str, _Stored] = {}
        index = self._index()
        for path in self._paths(index):
            with _open(path) as file:
                for name in file.keys():  # noqa: SIM118 (a file is no mapping)
                    if index.get(_hub_name(name), path) == path:  # else a copy, of whatever age
                        tensor = file.get_slice(name)
                        shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
                        self._add(_Stored(path, name, shape, dtype))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        return sorted(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Dtype on disk.

        Raises:
          ValueError: not a float type that models are stored in.
        """
        stored = self._tensors[name].dtype
        if stored not in _DTYPES:
            raise ValueError(f"{self.folder}: tensor {name} is {stored}, expected {[*_DTYPES]}")
        return _DTYPES[stored]

    def read(self, name: str, slices: tuple[slice, ...]) -> np.ndarray:
        """Slices of a tensor; nothing else of it is read."""
        tensor = self._tensors[name]
        with _open(tensor.path) as file:
            return file.get_slice(tensor.name)[slices]

    def _add(self, tensor: _Stored) -> None:
        name = _hub_name(tensor.name)
        if other := self._tensors.get(name):
            raise ValueError(
                f"{self.folder}: the tensor {name} is in {other.path.name}, as {other.name}, and "
                f"in {tensor.path.name}, as {tensor.name}, and {INDEX} does not say which counts; "
                "fetch the checkpoint again"
            )
        self._tensors[name] = tensor

    def _index(self) -> Mapping[str, Path]:
        """The file that each tensor is to be taken from; none where one file has all."""
        path = self.folder / INDEX
        if not path.is_file():
            return {}
        with read_plainly(path, "fetch the file again"):
            files = read_json(path)["weight_map"]
            index = {_hub_name(name): self.folder / file for name, file in files.items()}
        if (single := self.folder / SINGLE).is_file() and single not in index.values():
            raise ValueError(
                f"{self.folder}: weights are in {SINGLE} and in the files that {INDEX} names, and "
                "programs read one or the other; move away those that are not meant"
            )
        return index

    def _paths(self, index: Mapping[str, Path]) -> list[Path]:
        if index:
            return sorted(set(index.values()))
        single = self.folder / SINGLE
        if not single.is_file():
            raise FileNotFoundError(
                f"{self.folder}: neither {SINGLE} nor {INDEX}; pickled weights are never loaded, "
                "convert them to safetensors"
            )
        return [single]


def load_params(
    folder: str | Path, table: Mapping[str, Weight], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict:
    """Reads a parameter tree straight into its shards; every process of the mesh must call it.

    Of a tensor, a process reads what its devices hold, and what several of them hold once. In host
    memory is, besides the shards, at most one parameter's, and `PIECE_BYTES` of a file twice.

    Args:
      folder: Hugging Face folder.
      table: of `weight_table`.
      wanted: shape, dtype and sharding of every parameter, by path.

    Raises:
      ValueError: tensors are missing, have the wrong shape or hold NaN; all of them are named.
    """
    files = TensorFiles(folder)
    _check_tensors(files, table, wanted)

    def shard_size(path: str) -> int:
        return math.prod(wanted[path].sharding.shard_shape(wanted[path].shape))

    # The largest first: a parameter is in memory twice, for a moment, as it goes to its device.
    largest_first = sorted(table, key=shard_size, reverse=True)
    flat = {path: _load(files, table[path], wanted[path]) for path in largest_first}
    replicated = NamedSharding(next(iter(wanted.values())).sharding.mesh, PartitionSpec())
    finite = jax.device_get(jax.jit(_are_finite, out_shardings=replicated)(flat))
    if bad := [weight.name for path, weight in table.items() if not finite[path]]:
        raise ValueError(f"{folder}: not all numbers are finite in {', '.join(bad)}")
    return traverse_util.unflatten_dict({path: flat[path] for path in table}, sep="/")


def save_params(
    params: Mapping,
    folder: Path | None,
    table: Mapping[str, Weight],
    dtype_of: Callable[[str], np.dtype],
    *,
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes safetensors under hub names, at most one file's tensors in host memory at a time.

    Processes that share the parameters must all call it: they gather one tensor, or one layer's,
    at a time. Those whose `folder` is None write nothing.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    origins, sizes = {}, {}
    for path, value in flat.items():
        for layer, name in enumerate(_disk_names(table[path], value.shape)):
            origins[name] = path, layer
            numbers = math.prod(value.shape[table[path].stacked :])
            sizes[name] = numbers * dtype_of(name).itemsize
    plan = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=int,
        get_storage_id=lambda _: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for file, names in plan.filename_to_tensors.items():
        tensors = {}
        for name in names:
            path, layer = origins[name]
            value = _gather(flat[path][layer] if table[path].stacked else flat[path])
            if folder is not None:
                value = table[path].to_disk(value).astype(dtype_of(name))
                tensors[name] = np.ascontiguousarray(value)
        if folder is not None:
            _write(tensors, folder / file)
    if folder is not None and plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        content = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / INDEX).write_text(content, encoding="utf-8")


def _gather(value) -> np.ndarray:
    """A whole array, on every process that holds a part of it."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(jax.device_get(value))


def _write(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    os.umask(mask := os.umask(0))  # it can be read only by setting it
    path.chmod(0o666 & ~mask)  # the library writes files that no one else reads


def copy_companions(source: Path, target: Path) -> None:
    """Copies config, tokenizer, processor and licence files as they are."""
    for name in (*COMPANIONS, *LICENCES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="np")
    except Exception as error:  # the library raises its own type, without the file's name
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error


def _hub_name(stored: str) -> str:
    """Spelling of transformers 4.52+ in memory, as the hub's files spell it."""
    if stored.startswith("model.visual."):
        return stored.removeprefix("model.")
    if stored.startswith("model.language_model."):
        return "model." + stored.removeprefix("model.language_model.")
    return stored


def _check_tensors(files: TensorFiles, table, params) -> None:
    problems, known = [], set()
    for path, weight in table.items():
        shape = params[path].shape
        known.update(_disk_names(weight, shape))
        for name in _disk_names(weight, shape):
            wanted = weight.disk_shape(shape[1:] if weight.stacked else shape)
            if name not in files:
                problems.append(f"{name} is missing")
            elif files.shape(name) != wanted:
                problems.append(f"{name} has shape {files.shape(name)}, expected {wanted}")
            else:
                files.dtype(name)
    if "head" not in table:
        known.add("lm_head.weight")  # a tied head may be stored all the same
    problems += [f"{name} is not part of the model" for name in files.names() if name not in known]
    if problems:
        more = [f"and {len(problems) - 8} more"] if problems[8:] else []
        shown = "; ".join([*problems[:8], *more])
        raise ValueError(f"{files.folder}: {len(problems)} tensors do not fit config.json: {shown}")


def _are_finite(params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    # What is not finite differs from itself by NaN, which stays so in a sum. This takes no memory,
    # where XLA keeps a byte or more for every number that `isfinite` or a product has looked at.
    return {path: (leaf - leaf).sum() == 0 for path, leaf in params.items()}


def _disk_names(weight: Weight, shape: tuple[int, ...]) -> list[str]:
    return [weight.name.format(i) for i in range(shape[0])] if weight.stacked else [weight.name]


def _load(files: TensorFiles, weight: Weight, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    @functools.cache  # devices that hold the same share one reading of it
    def read(bounds: Block) -> np.ndarray:
        return _read_block(files, weight, wanted, bounds)

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        bounds = zip(index, wanted.shape, strict=True)
        return read(tuple(part.indices(size)[:2] for part, size in bounds))

    array = jax.make_array_from_callback(wanted.shape, wanted.sharding, shard, dtype=wanted.dtype)
    return jax.block_until_ready(array)  # what is on its way to a device is in host memory too


def _read_block(files: TensorFiles, weight: Weight, wanted, bounds: Block) -> np.ndarray:
    """A block of a parameter: of each tensor that has a part in it, that part is read."""
    block = np.empty([stop - start for start, stop in bounds], wanted.dtype)
    names, layers, shape = _disk_names(weight, wanted.shape), block[None], wanted.shape
    if weight.stacked:
        names, layers, shape = names[slice(*bounds[0])], block, shape[1:]
    for name, layer in zip(names, layers, strict=True):
        row_bytes = math.prod(files.shape(name)[1:]) * files.dtype(name).itemsize
        parts = weight.slices(bounds[-len(shape) :], shape, max(1, PIECE_BYTES // row_bytes))
        for ours, disk in parts:
            layer[ours] = weight.from_disk(files.read(name, disk), layer[ours].shape)
    return block
