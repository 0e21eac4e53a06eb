"""Equal to transformers in float32: logits, greedy tokens, folders."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util
from safetensors.numpy import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from lrt_jax.models import apply_hf, load_model, save_pretrained
from lrt_jax.models.qwen2_5_vl.hf_inputs import from_hf
from lrt_jax.models.qwen2_5_vl.weights import weight_table
from lrt_jax.rl.rollout import SamplingConfig, completion_keys, sample_completions
from tests.models.calling import call
from tests.models.hf_reference import SHAPES, as_torch, make_checkpoint, make_inputs


def hf_logits(hf, inputs) -> np.ndarray:
    with torch.no_grad():
        return hf(**as_torch(inputs)).logits.numpy()


def assert_equal_logits(hf, model, params, inputs, tolerance=1e-4):
    """Equal to what transformers makes in float64, of which its own float32 is as far as ours."""
    exact = {k: x.astype(np.float64) if x.dtype == np.float32 else x for k, x in inputs.items()}
    wanted = hf_logits(copy.deepcopy(hf).double(), exact)
    got = np.asarray(apply_hf(model, params, inputs))
    seen = inputs["attention_mask"] == 1
    assert wanted[seen].std() >= 1.0, "logits too flat to tell anything"
    np.testing.assert_allclose(got[seen], wanted[seen], atol=tolerance, rtol=0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("counts", [[1, 4], [2, 3]])
def test_logits(both, padding_side, counts):
    inputs = make_inputs(counts, both.shape, padding_side=padding_side, seed=sum(counts))
    assert_equal_logits(both.hf, both.model, both.params, inputs)


def test_text_without_images(one):
    inputs = text_only()
    wanted, got = hf_logits(one.hf, inputs), np.asarray(apply_hf(one.model, one.params, inputs))
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)


def test_nested_names_load_alike(both, tmp_path):
    make_checkpoint(tmp_path, both.shape, hub_layout=False)
    assert any(
        name.startswith("model.language_model.")
        for file in tmp_path.glob("*.safetensors")
        for name in load_file(file)
    )
    _, params = load_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, both.params)


def test_greedy_tokens(both):
    inputs = make_inputs([2, 1], both.shape, padding_side="left", seed=7)
    banned = list(both.model.config.banned_token_ids)
    with torch.no_grad():
        out = both.hf.generate(
            **as_torch(inputs),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=banned,
        )
    wanted = out[:, inputs["input_ids"].shape[1] :].numpy()
    got = sample(both, inputs, SamplingConfig(24, stop_ids=(), temperature=0.0))
    np.testing.assert_array_equal(got.tokens[:, 0], wanted)
    assert len(np.unique(wanted)) > 4, "a constant continuation tells nothing"


def sample(pair, inputs, sampling):
    prompt, patches, coords, window = from_hf(inputs, pair.model.config)
    tokens = call(pair.model, pair.params, "encode_patches", patches, coords, window)
    features = jnp.broadcast_to(
        tokens.reshape(1, -1, tokens.shape[-1]),
        (len(prompt.length), tokens.shape[0] * tokens.shape[1], tokens.shape[2]),
    )
    pairs = jnp.arange(len(prompt.length))
    keys = completion_keys(jax.random.key(0), pairs, pairs < 0, 1)
    return sample_completions(pair.model, pair.params, prompt, features, keys, sampling)


def test_unchanged_weights_come_back_bit_for_bit(both, tmp_path):
    out = tmp_path / "out"
    save_pretrained(both.params, out, source=both.folder, max_shard_size="60KB")
    assert tensors(out) == tensors(both.folder)
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(out)
    inputs = make_inputs([2], both.shape, padding_side="right")
    np.testing.assert_array_equal(hf_logits(hf, inputs), hf_logits(both.hf, inputs))


def test_bfloat16_files_come_back_bit_for_bit(tmp_path):
    hf = make_checkpoint(tmp_path / "float32", SHAPES["tied"])
    hf.to(torch.bfloat16).save_pretrained(tmp_path / "in")
    _, params = load_model(tmp_path / "in")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    save_pretrained(params, tmp_path / "out", source=tmp_path / "in")
    assert tensors(tmp_path / "out") == tensors(tmp_path / "in")
    assert {dtype for dtype, _, _ in tensors(tmp_path / "out").values()} == {"bfloat16"}


def tensors(folder) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    files = {
        k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }
    return {name: (v.dtype.name, v.shape, v.tobytes()) for name, v in files.items()}


def test_table_names_every_parameter_once(both):
    table = weight_table(both.model.config)
    flat = traverse_util.flatten_dict(both.params, sep="/")
    assert set(table) == set(flat)
    assert all(len(table[path].axes) == leaf.ndim for path, leaf in flat.items())
    stored = set(tensors(both.folder))
    named = {
        weight.name.format(layer)
        for path, weight in table.items()
        for layer in range(flat[path].shape[0] if weight.stacked else 1)
    }
    assert named == stored


def test_a_wrong_name_is_told(one, tmp_path, monkeypatch):
    from lrt_jax.models import qwen2_5_vl

    broken = weight_table(one.model.config)
    path = "decoder/layers/q/kernel"
    broken[path] = dataclasses.replace(broken[path], name="model.layers.{}.self_attn.query.weight")
    family = dataclasses.replace(qwen2_5_vl.FAMILY, weight_table=lambda config: broken)
    monkeypatch.setattr(qwen2_5_vl, "FAMILY", family)
    with pytest.raises(
        ValueError, match=r"4 tensors .* model\.layers\.0\.self_attn\.query\.weight is missing"
    ):
        load_model(one.folder)


def test_shapes_that_do_not_fit_are_told_together(one, tmp_path):
    make_checkpoint(tmp_path, dataclasses.replace(SHAPES["tied"], mlp=64))
    config = (one.folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"6 tensors do not fit config\.json: .*gate_proj"):
        load_model(tmp_path)


def test_tensors_that_the_config_does_not_know_are_told(one, tmp_path):
    make_checkpoint(tmp_path, dataclasses.replace(SHAPES["tied"], layers=3))
    (tmp_path / "config.json").write_text((one.folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"model\.layers\.2\.\S+ is not part of the model"):
        load_model(tmp_path)


def test_pickles_are_never_loaded(one, tmp_path):
    (tmp_path / "config.json").write_text((one.folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="convert them to safetensors"):
        load_model(tmp_path)


def test_missing_folder_is_told():
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_model("./nowhere")


def test_inputs_that_would_go_wrong_in_silence_are_refused(one):
    inputs = make_inputs([1], one.shape, padding_side="right")
    without = {k: v for k, v in inputs.items() if k != "mm_token_type_ids"}
    with pytest.raises(KeyError, match="mm_token_type_ids"):
        apply_hf(one.model, one.params, without)
    moving = inputs["pixel_values"].copy()
    moving[0, 0] += 1.0
    with pytest.raises(ValueError, match="frames of a patch differ"):
        apply_hf(one.model, one.params, inputs | {"pixel_values": moving})


def text_only() -> dict:
    ids = np.arange(8, 20)[None]
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "mm_token_type_ids": np.zeros_like(ids),
    }
