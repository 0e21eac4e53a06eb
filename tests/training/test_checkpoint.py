"""Which checkpoints stay, which are refused, and what is said where a bucket refuses them."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.algorithms.state import TrainState
from lrt_jax.storage.bucket import BucketError
from lrt_jax.training.checkpoint import Checkpointer, abstract_state
from tests.bucket_server import READ, WRITTEN


class Position:
    """A loader, as far as a checkpoint knows one."""

    def __init__(self, place=0):
        self.place = {"next": place}

    def get_state(self):
        return self.place

    def set_state(self, state):
        self.place = state


@pytest.fixture
def state():
    return TrainState(step=jnp.int32(0), trainable={"x": jnp.zeros(2)}, frozen={}, opt_state=())


def test_the_last_and_the_best_stay(tmp_path, state):
    with Checkpointer(tmp_path, 2, best=lambda: 2) as checkpointer:
        assert not checkpointer.has_unsaved_steps
        for step in range(1, 7):
            checkpointer.step_done(step)
            assert checkpointer.has_unsaved_steps
            checkpointer.save(step, state, Position())
        checkpointer.wait()
        assert not checkpointer.has_unsaved_steps
    steps = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == {2, 5, 6}


# ---------------------------------------------------------------------------- what is refused

PLACE = 7


@pytest.fixture
def noise():
    """A state that no compression makes smaller."""
    x = jax.random.normal(jax.random.key(0), (1024,))
    moments = {"mu": {"x": x / 2}, "nu": {"x": x**2}}
    return TrainState(jnp.int32(3), {"x": x}, {"tower/y": x[:8]}, moments)


def save(workdir, state, *steps, place=PLACE, **run):
    """Checkpoints of some steps; the folder of the last."""
    with Checkpointer(workdir, len(steps), run=run) as checkpointer:
        for step in steps:
            checkpointer.save(step, state, Position(place))
    return workdir / "checkpoints" / str(steps[-1])


def restored(workdir, step, state, **run):
    with Checkpointer(workdir, 0, run=run) as checkpointer:
        return checkpointer.restore(step, abstract_state(state), Position())


def restored_params(workdir, step, params, freeze=("tower",), **run):
    with Checkpointer(workdir, 0, run=run) as checkpointer:
        return checkpointer.restore_params(step, abstract_state(params), freeze)


def test_a_byte_that_is_damaged_on_the_disk_is_never_taken_for_a_number(tmp_path, noise):
    """Whether what it stands in can still be read, which is so for most, or not."""
    folder = save(tmp_path, noise, 2)
    files = (folder / "state").rglob("d/*")
    path = max(files, key=lambda file: file.stat().st_size)
    whole, told = path.read_bytes(), []
    for place in range(0, len(whole), len(whole) // 20):
        changed = bytearray(whole)
        changed[place] ^= 0x40
        path.write_bytes(changed)
        try:
            state = restored(tmp_path, 2, noise)
        except ValueError as error:
            assert re.match(f"{folder}: .*remove this checkpoint: the run has no oth", str(error))
            told.append(str(error))
        else:  # in what nobody looks at
            jax.tree.map(np.testing.assert_array_equal, state, noise)
    assert sum("is damaged: not as it was saved is " in line for line in told) > 12
    assert max(map(len, told)) < 600


@pytest.mark.parametrize("leaf", ["trainable/x", "frozen/tower/y", "opt_state/nu/x"])
@pytest.mark.parametrize("value", [2.5e35, np.nan])
def test_a_number_that_is_damaged_is_told_by_its_array(tmp_path, noise, leaf, value):
    """As if a bit of it had been flipped so that it can still be read."""
    folder = save(tmp_path / "whole", noise, 2)

    def hurt(path, array):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return array.at[5].set(value) if name == leaf else array

    hurt_state = jax.tree_util.tree_map_with_path(hurt, noise)
    with pytest.MonkeyPatch.context() as patch:  # which would not save it
        patch.setattr("lrt_jax.training.checkpoint.checksums", lambda arrays: {})
        hurt_folder = save(tmp_path / "hurt", hurt_state, 1, 2)
    shutil.rmtree(hurt_folder / "manifest")
    shutil.copytree(folder / "manifest", hurt_folder / "manifest")
    told = f"{hurt_folder}: is damaged: .* {leaf}; remove this checkpoint: the run then goes on "
    with pytest.raises(ValueError, match=f"{told}from step 1$"):
        restored(tmp_path / "hurt", 2, noise)
    params = {"x": noise.trainable["x"], "tower": {"y": noise.frozen["tower/y"]}}
    if leaf.startswith("opt_state"):  # is not read here
        assert (restored_params(tmp_path / "hurt", 2, params)["x"] == params["x"]).all()
        return
    with pytest.raises(ValueError, match=f"is damaged: .* {leaf}; take another --step"):
        restored_params(tmp_path / "hurt", 2, params)


def test_a_place_in_the_data_that_is_damaged(tmp_path, noise):
    folder = save(tmp_path, noise, 2)
    (folder / "data" / "metadata").write_text(json.dumps({"next": PLACE + 1}))
    with pytest.raises(ValueError, match="2: is damaged: .* is the position in the data; remove "):
        restored(tmp_path, 2, noise)


def test_a_checkpoint_under_the_name_of_another_step(tmp_path, noise):
    folder = save(tmp_path, noise, 2)
    shutil.copytree(folder, folder.with_name("9"))
    told = "checkpoints/9: was saved at step 2; remove this checkpoint: the run then goes on from"
    with pytest.raises(ValueError, match=f"{told} step 2"):
        restored(tmp_path, 9, noise)


def test_a_checkpoint_of_another_run(tmp_path, noise):
    save(tmp_path, noise, 2, config="1", model="2", data="3")
    told = (
        "is of another run, with another config and data; remove this checkpoint: the run "
        "has no other, and begins anew"
    )
    with pytest.raises(ValueError, match=told):
        restored(tmp_path, 2, noise, config="4", model="2", data="5")
    params = {"x": noise.trainable["x"], "tower": {"y": noise.frozen["tower/y"]}}
    with pytest.raises(ValueError, match="is of another run, with another model; take another"):
        restored_params(tmp_path, 2, params, config="1", model="4", data="3")
    assert restored(tmp_path, 2, noise, config="1", model="2", data="3").step == 3


def test_a_checkpoint_without_a_manifest(tmp_path, noise):
    folder = save(tmp_path, noise, 2)
    shutil.rmtree(folder / "manifest")
    with pytest.raises(ValueError, match="checkpoints/2: has no manifest: .*; remove this check"):
        restored(tmp_path, 2, noise)


def test_arrays_of_another_shape_or_dtype_are_neither_cut_nor_filled_up(tmp_path, noise):
    save(tmp_path, noise, 2)
    x, y = noise.trainable["x"], noise.frozen["tower/y"]
    for other, told in (
        (jnp.zeros(1025), r"float32\[1024\], expected float32\[1025\]"),
        (x.astype(jnp.bfloat16), r"float32\[1024\], expected bfloat16\[1024\]"),
    ):
        with pytest.raises(ValueError, match=rf"trainable/x is {told}"):
            restored(tmp_path, 2, noise.replace(trainable={"x": other}))
        with pytest.raises(ValueError, match=rf"trainable/x is {told}"):
            restored_params(tmp_path, 2, {"x": other, "tower": {"y": y}})
    with pytest.raises(ValueError, match=r"trainable/z is missing, expected float32\[1024\]"):
        restored(tmp_path, 2, noise.replace(trainable={"x": x, "z": x}))


def test_numbers_that_are_not_finite_are_not_saved(tmp_path, noise):
    bad = noise.replace(opt_state={"nu": {"x": noise.trainable["x"].at[1].set(jnp.inf)}})
    with pytest.raises(FloatingPointError, match="step 4: .* in opt_state/nu/x; this step is not"):
        save(tmp_path, bad, 4)
    assert not [*(tmp_path / "checkpoints").glob("*")]


# ---------------------------------------------------------------------------- buckets
@pytest.mark.parametrize("name", ["run]1", "ä {1} %20 #2", "~x", "a:b@3,$c='\"|&"])
def test_a_folder_may_have_an_odd_name(tmp_path, state, name):
    (tmp_path / name).mkdir()
    with Checkpointer(tmp_path / name, 2) as checkpointer:
        checkpointer.save(1, state.replace(trainable={"x": jnp.arange(2.0)}), Position())
    with Checkpointer(tmp_path / name, 2) as checkpointer:
        assert checkpointer.latest_step == 1
        assert checkpointer.restore(1, abstract_state(state)).trainable["x"].tolist() == [0.0, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture
def workdir(things, tmp_path) -> str:
    """A workdir in a bucket, of which no library remembers anything."""
    return f"gs://things/{tmp_path.name}"


# gcsfs writes and reads metadata and data's place, tensorstore arrays: each has errors of its own.
@pytest.mark.parametrize("file", ["/data/metadata", "/d/", "/commit_success.txt"])
def test_a_bucket_that_may_not_be_written(things, state, workdir, file):
    things.refuses = lambda what, _, name: 403 if what == WRITTEN and file in name else None
    told = f"{workdir}/checkpoints: cannot be written .*gcloud auth application-default login"
    with (
        pytest.raises(BucketError, match=told) as raised,
        Checkpointer(workdir, 2) as checkpointer,
    ):
        checkpointer.save(1, state, Position())
        checkpointer.wait()
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("file", ["/data/metadata", "/d/", "/manifest.ocdbt"])
def test_a_bucket_that_may_not_be_read_is_no_reason_to_remove_it(things, state, workdir, file):
    with Checkpointer(workdir, 2) as checkpointer:
        checkpointer.save(1, state, Position())
    things.refuses = lambda what, _, name: 403 if what == READ and file in name else None
    with Checkpointer(workdir, 2) as checkpointer:
        with pytest.raises(BucketError, match=f"{workdir}/checkpoints/1: cannot be read") as raised:
            checkpointer.restore(1, abstract_state(state), Position())
        assert "remove" not in str(raised.value)
