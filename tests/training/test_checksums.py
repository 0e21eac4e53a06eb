"""Checksums see every change of an array, and are the same however it is spread over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.training import checksums as module
from lrt_jax.training.checksums import by_path, checksums

ARRAYS = {
    "floats": jax.random.normal(jax.random.key(0), (3, 8, 4)),
    "halves": jax.random.normal(jax.random.key(1), (8, 20), jnp.bfloat16),
    "counts": jnp.arange(16, dtype=jnp.int32).reshape(8, 2) - 7,
    "one": jnp.int32(5),
}


@pytest.mark.parametrize("sizes", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"data": 4}], ids=str)
def test_every_mesh_gives_the_same(sizes):
    mesh = make_mesh(**sizes)
    axes = {
        "floats": ("tensor", "fsdp") if sizes == {"fsdp": 4} else (None, "fsdp", "tensor"),
        "halves": (("fsdp", "tensor"),),
        "counts": ("fsdp", "tensor"),
        "one": (),
    }
    spread = {
        name: jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes[name])))
        for name, array in ARRAYS.items()
    }
    assert checksums(spread) == checksums(ARRAYS)


@pytest.mark.parametrize("name", ARRAYS)
def test_every_bit_counts(name):
    """Each bit of the first, the last and a middle number, one after another."""
    saved = checksums({name: ARRAYS[name]})[name]
    bits = np.asarray(ARRAYS[name]).reshape(-1)
    bits = bits.view(f"u{bits.itemsize}")
    found = set()
    for place in {0, bits.size // 2, bits.size - 1}:
        for bit in range(8 * bits.itemsize):
            changed = bits.copy()
            changed[place] ^= np.array(1 << bit, changed.dtype)
            array = jnp.asarray(changed.view(ARRAYS[name].dtype).reshape(ARRAYS[name].shape))
            if not jnp.isfinite(array).all():
                continue
            found.add(checksums({name: array})[name])
    assert saved not in found and len(found) > 2 * bits.itemsize


def test_numbers_that_changed_places_are_others():
    """Also a number and its negative, whose bits differ by 2^31, and whole rows."""
    array = jnp.array([[1.5, -1.5], [2.0, 3.0], [0.0, -0.0]])
    swapped = array.at[0].set(array[0, ::-1])
    others = [
        swapped,
        array[::-1],
        array[:, ::-1],
        array.T.reshape(3, 2),
        array[jnp.array([1, 0, 2])],
    ]
    found = {checksums({"x": x})["x"] for x in (array, *others)}
    assert len(found) == 1 + len(others)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(bad):
    arrays = {**ARRAYS, "halves": ARRAYS["halves"].at[7, 3].set(bad)}
    with pytest.raises(ValueError, match="not all numbers are finite in halves$"):
        checksums(arrays)


def test_indices_are_those_of_the_flattened_array_modulo_2_to_32():
    assert (module._indices((3, 5, 7)).reshape(-1) == jnp.arange(105)).all()
    last = jax.jit(lambda: module._indices((2**17, 1, 2**16))[-1, 0, -2])()
    assert int(last) == (2**33 - 2) % 2**32


def test_no_copy_is_made():
    """Of 64 MB; a copy, or the terms of the sums, would be as much."""
    array = jax.ShapeDtypeStruct((16, 1024, 1024), jnp.float32)
    compiled = jax.jit(module._sums).lower(array).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**16


def test_leaves_are_known_by_their_path():
    assert [*by_path({"a": {"b/c": 1}, "d": (2, 3)})] == ["a/b/c", "d/0", "d/1"]
