"""Parameters are read straight into their shards: the same numbers, and nothing else."""

import collections
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from lrt_jax.models import checkpoint_folder, load_model, save_pretrained
from lrt_jax.models.checkpoint_folder import INDEX, SINGLE, TensorFiles
from lrt_jax.models.qwen2_5_vl.weights import weight_table
from lrt_jax.parallel.mesh import make_mesh

MESHES = [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"tensor": 4}, {"data": 2, "fsdp": 2}, {"data": 4}]
ListenerInput = collections.namedtuple("ListenerInput", "name place size")


@pytest.fixture
def readings(monkeypatch) -> list[ListenerInput]:
    """What is read of files, at the library's door, where no tensor can be read but by its part."""
    seen = []

    class Watched:
        def __init__(self, path):
            self._file = real(path)

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *error):
            return self._file.__exit__(*error)

        def keys(self):
            return self._file.keys()

        def get_slice(self, name):
            return WatchedSlice(name, self._file.get_slice(name))

    class WatchedSlice:
        def __init__(self, name, tensor):
            self._name, self._tensor = name, tensor
            self.get_shape, self.get_dtype = tensor.get_shape, tensor.get_dtype

        def __getitem__(self, place):
            value = self._tensor[place]
            seen.append(ListenerInput(self._name, str(place), value.size))
            return value

    real = checkpoint_folder._open
    monkeypatch.setattr(checkpoint_folder, "_open", Watched)
    return seen


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_parts_are_those_of_the_whole(both, sizes):
    _, params = load_model(both.folder, mesh=make_mesh(**sizes))
    jax.tree.map(assert_same_bits, params, both.params)
    divided = [not leaf.is_fully_replicated for leaf in jax.tree.leaves(params)]
    assert any(divided) == (sizes.keys() != {"data"})


@pytest.mark.parametrize("piece", [1, 1000])
def test_small_pieces_are_those_of_the_whole(both, piece, monkeypatch):
    monkeypatch.setattr(checkpoint_folder, "PIECE_BYTES", piece)
    _, params = load_model(both.folder, mesh=make_mesh(fsdp=2, tensor=2))
    jax.tree.map(assert_same_bits, params, both.params)


@pytest.mark.parametrize("layout", ["train", "sample"])
def test_dtypes_are_those_of_the_whole(one, layout):
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), one.params)
    mesh = make_mesh(fsdp=2, tensor=2)
    _, params = load_model(one.folder, jnp.bfloat16, mesh=mesh, layout=layout)
    jax.tree.map(assert_same_bits, params, whole)


@pytest.mark.parametrize("name", ["run[1]", "a\\b", "*?"])
def test_a_folder_whose_name_is_a_pattern_is_read_and_written(one, tmp_path, name):
    shutil.copytree(one.folder, tmp_path / "in" / name)
    for folder in ("in", "out"):
        _, params = load_model(tmp_path / folder / name)
        jax.tree.map(assert_same_bits, params, one.params)
        save_pretrained(params, tmp_path / "out" / name, source=tmp_path / folder / name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def assert_same_bits(got, wanted):
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    assert np.asarray(got).tobytes() == np.asarray(wanted).tobytes()


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_number_is_read_once(both, sizes, readings):
    """Also where several devices hold it."""
    load_model(both.folder, mesh=make_mesh(**sizes))
    assert max(collections.Counter(readings).values()) == 1
    files, read = TensorFiles(both.folder), collections.Counter()
    for reading in readings:
        read[reading.name] += reading.size
    assert read == {name: math.prod(files.shape(name)) for name in files.names()}


@pytest.mark.parametrize("sizes", MESHES[:3], ids=str)
def test_no_more_than_a_shard_is_read_at_a_time(both, sizes, readings):
    _, params = load_model(both.folder, mesh=make_mesh(**sizes))
    largest = {name: 0 for name in TensorFiles(both.folder).names()}
    for reading in readings:
        largest[reading.name] = max(largest[reading.name], reading.size)
    table, flat = weight_table(both.model.config), traverse_util.flatten_dict(params, sep="/")
    for path, leaf in flat.items():
        shard = leaf.sharding.shard_shape(leaf.shape)[table[path].stacked :]
        layers = range(leaf.shape[0] if table[path].stacked else 1)
        for name in {table[path].name.format(layer) for layer in layers}:
            assert largest[name] <= math.prod(shard), name


def test_pieces_are_small(one, readings, monkeypatch):
    """Of a tensor that is larger than a piece, rows are read that fill one."""
    monkeypatch.setattr(checkpoint_folder, "PIECE_BYTES", 1000)
    load_model(one.folder, mesh=make_mesh(fsdp=4))
    sizes = {x.size for x in readings if x.name == "model.embed_tokens.weight"}
    # A row of 32 numbers has 128 bytes: 7 fill a piece, and 5 of the 96 are left for the last.
    assert (one.shape.vocab, one.shape.hidden) == (96, 32) and sizes == {7 * 8, 5 * 8}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_number_that_is_not_finite_is_told(one, tmp_path, bad, dtype):
    shutil.copytree(one.folder, tmp_path / "model")
    name = "model.layers.1.mlp.down_proj.weight"
    for path in (tmp_path / "model").glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name][3, 5] = bad
            save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"finite in model\.layers\.\{\}\.mlp\.down_proj\.weight$"):
        load_model(tmp_path / "model", dtype, mesh=make_mesh(fsdp=2, tensor=2))


def test_the_largest_numbers_are_finite():
    largest = {"a": jnp.full((3, 4), jnp.finfo(jnp.bfloat16).max, jnp.bfloat16)}
    assert checkpoint_folder._are_finite(largest)["a"]


COPIED = "model.layers.0.self_attn.q_proj.bias"


@pytest.fixture
def sharded(one, tmp_path):
    """The model in several files; of one tensor there is another, older copy in a later one."""
    folder = tmp_path / "model"
    save_pretrained(one.params, folder, source=one.folder, max_shard_size="60KB")
    files = json.loads((folder / INDEX).read_text())["weight_map"]
    last = max(files.values())
    assert files[COPIED] < last
    copy = np.full(one.shape.hidden, 7, np.float32)
    save_file(load_file(folder / last) | {COPIED: copy}, folder / last)
    return folder


def test_a_tensor_is_taken_from_the_file_that_the_index_names(one, sharded):
    jax.tree.map(assert_same_bits, load_model(sharded)[1], one.params)


def test_weights_in_one_file_and_in_several_are_refused(one, sharded):
    """transformers takes the one file."""
    shutil.copy(next(sharded.glob("*.safetensors")), sharded / SINGLE)
    with pytest.raises(ValueError, match=rf"in {SINGLE} and in the files that {INDEX} names"):
        load_model(sharded)


def test_a_tensor_that_lies_in_two_files_and_not_in_the_index_is_refused(sharded):
    index = json.loads((sharded / INDEX).read_text())
    del index["weight_map"][COPIED]
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"{COPIED} is in model-0\S+, .* which counts; fetch"):
        load_model(sharded)
