"""The built-in model: its files, its card, and that transformers hears the same from it."""

import dataclasses
import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from lrt_jax import assets
from lrt_jax.assets import make_tiny
from lrt_jax.assets.tokenizer import write_tokenizer
from lrt_jax.config import parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.config.scenes import ScenesOptions
from lrt_jax.data.images import decode
from lrt_jax.data.input.prompts import parse, render
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.models import check_replaceable
from lrt_jax.parallel.collectives import shard_local_batch
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.training import setup
from tests.hf import image_only_processor
from tests.models.hf_reference import as_torch

FOLDER = assets.tiny_model()
both = pytest.mark.parametrize("name", assets.BUILT_IN)


def test_they_are_small():
    folders = [assets.built_in_model(name) for name in assets.BUILT_IN]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) <= 6_000_000
    reasoner, listener = map(make_tiny.count_parameters, folders)
    assert 300_000 <= reasoner <= 1_000_000 and 2 * reasoner <= listener


@both
def test_weights_are_finite_and_in_bfloat16(name):
    weights = load_file(assets.built_in_model(name) / "model.safetensors")
    assert all(value.dtype == ml_dtypes.bfloat16 for value in weights.values())
    assert all(np.isfinite(value.astype(np.float32)).all() for value in weights.values())


@both
def test_tokenizer_and_sizes_are_those_that_the_code_makes(name, tmp_path):
    tokenizer = write_tokenizer(tmp_path, max_pixels=make_tiny.MAX_PIXELS)
    folder = assets.built_in_model(name)
    for file in ("tokenizer.json", "vocab.json", "merges.txt", "chat_template.jinja"):
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes(), file
    wanted = json.loads(json.dumps(make_tiny.hub_config(tokenizer, make_tiny.SIZES[name])))
    assert json.loads((folder / "config.json").read_text()) == wanted


@both
def test_fresh_weights_are_another_model_of_the_same_sizes(name, tmp_path):
    fresh = load_file(make_tiny.write_fresh(tmp_path / "fresh", name) / "model.safetensors")
    shipped = load_file(assets.built_in_model(name) / "model.safetensors")
    assert {k: v.shape for k, v in fresh.items()} == {k: v.shape for k, v in shipped.items()}
    assert any((fresh[name] != shipped[name]).any() for name in fresh)


@both
def test_the_card_tells_data_commands_and_accuracy(name):
    card = (assets.built_in_model(name) / "README.md").read_text()
    assert re.search(rf"--config=configs/scenes.py:{make_tiny.PRESETS[name]} ", card)
    for figure in ("sampled at temperature 1", "accuracy, greedy", "of the objects"):
        assert figure in card
    assert len(re.findall(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", card)) == 9
    assert not re.search(r"[{}]", card)


def test_a_run_that_has_not_ended_cannot_be_shipped(tmp_path):
    with pytest.raises(FileNotFoundError, match="has the run ended"):
        make_tiny.ship(tmp_path, tmp_path / "out")


def test_the_next_one_may_replace_it():
    assert len(check_replaceable(FOLDER)) == len([*FOLDER.iterdir()])


def test_a_folder_that_holds_no_model_is_not_replaced(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match=r"letter\.txt and no lrt_jax_files"):
        make_tiny.ship(tmp_path, home)
    assert (home / "letter.txt").read_text() == "dear"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a few scenes with the built-in model, and its parameters."""
    folder = tmp_path_factory.mktemp("tiny")
    few = ScenesOptions(seed=5, train=4, validation=4, test=1)
    values = preset_config("tiny")
    values.data.source = "scenes"
    values.data.path = str(write_scenes(folder / "scenes", few))
    values.batch_size, values.eval.batch_size = 4, 8
    values.eval.others, values.eval.held_out_listener = (), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))
        return setup.open_run(parse_config(values), folder)


def test_transformers_gives_the_same_greedy_traces(run):
    run, params = run
    host_batch = next(iter(run.eval_loader()))
    batch = shard_local_batch(host_batch, run.engine.mesh)
    features = run.engine.encode_images(params, batch)
    greedy = dataclasses.replace(run.sampling, temperature=0.0)
    rollout = run.engine.sample(params, batch, features[None], 1, greedy, 1, 0)
    ours = [texts[0] for texts in run.engine.decode_rollout(rollout).texts]
    assert all(parse(text).well_formed for text in ours)
    theirs = [
        say(run.engine.tokenizer, *shown(run.prepared, int(pair), bool(swapped)))
        for pair, swapped in zip(host_batch.target.pair, host_batch.target.swapped, strict=True)
    ]
    assert ours == theirs


def shown(prepared, row, swapped):
    """Caption and images of a pair, in the order shown."""
    record = prepared.pair(row)
    files = [prepared.image(index).image for index in record.image_index]
    images = [Image.fromarray(decode(data, "image")) for data in files]
    return record.prompt, images[::-1] if swapped else images


def say(tokenizer, caption, images):
    """What transformers' model says greedily, without the stop token."""
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32)
    text = render(tokenizer, caption, "reason")
    inputs = image_only_processor(FOLDER)(text=[text], images=images, return_tensors="np")
    inputs = as_torch(dict(inputs))
    with torch.no_grad():
        out = hf.generate(**inputs, do_sample=False, max_new_tokens=64)
    said = out[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(said[said != hf.generation_config.eos_token_id[0]])
