"""What can be planned, and what is said of what cannot."""

import json
import shutil

import pytest

from lrt_jax import assets
from lrt_jax.algorithms.api import Algorithm
from lrt_jax.config import Config, ConfigError, PromptOptions, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.models.families import published_models
from lrt_jax.planning import models, pieces
from lrt_jax.planning.models import find_model
from lrt_jax.planning.pieces import trace_run
from lrt_jax.planning.plan import make_plan
from lrt_jax.planning.topology import Topology
from lrt_jax.rl import tracing
from tests.planning.made import mesh_of_four

pytestmark = pytest.mark.usefixtures("unchecked")
SIZES = {
    "data.source": "scenes",
    "data.max_patches": 64,
    "data.prompt_tokens": 224,
    "data.judge_tokens": 224,
    "eval.held_out_listener": None,
}


def same(config):
    return config


def tiny(**changes) -> Config:
    values = preset_config("tiny")
    values.update_from_flattened_dict(SIZES | {"loss.beta": 0.0} | changes)
    return parse_config(values)


def names(**changes) -> list[str]:
    return [piece.name for piece in trace_run(tiny(**changes), mesh_of_four(), same)]


def test_pieces_of_grpo():
    evaluated = ["eval_copy", "eval_encode", "eval_rollout"]
    plain = ["copy", "encode", "rollout"]
    assert names(**{"listener.weight": 0.0}) == [*plain, "update", *evaluated]
    judged = {"loss.beta": 0.1, "listener.style": "judge"}
    asked = [*plain, "reference_listener", "update", *evaluated, "eval_listener"]
    assert names(**judged) == names(**{"loss.beta": 0.1}) == asked
    alone = [*plain, "listener", "update", *evaluated, "eval_listener"]
    assert names(**judged | {"loss.beta": 0.0}) == alone


def test_two_listeners_and_a_tower_of_their_own(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(assets.tiny_model(), other)
    found = names(**{"listener.others": ({"path": str(other), "style": "judge"},)})
    assert found[:6] == ["copy", "encode", "encode_2", "rollout", "listener", "listener_2"]
    found = names(**{"listener.path": str(other), "listener.style": "judge", "loss.beta": 0.1})
    assert found[3:7] == ["rollout", "reference", "listener", "update"]


def test_one_pass_for_reference_and_judge_is_worth_both_prompts():
    """What it reads of the policy's prompt, with logits, and of the judge's."""
    judged = {"loss.beta": 0.1, "listener.style": "judge", "data.judge_tokens": 256}
    found = {x.name: x for x in trace_run(tiny(**judged), mesh_of_four(), same)}
    alone = {
        x.name: x for x in trace_run(tiny(**judged | {"loss.beta": 0.0}), mesh_of_four(), same)
    }
    gradient = found["update"].flops / 3  # a forward pass, its logits included
    assert found["reference_listener"].flops == gradient + alone["listener"].flops


def test_the_held_out_listener_is_a_piece_of_evaluations_alone(tmp_path):
    """With a tower of its own; one that the run listens to anyway is none."""
    other = tmp_path / "other"
    shutil.copytree(assets.tiny_model(), other)
    asked = {"eval.held_out_listener": str(other)}
    plain = names()
    encode = plain.index("eval_encode") + 1
    with_tower = [*plain[:encode], "eval_encode_2", *plain[encode:], "eval_held_out"]
    assert names(**asked) == with_tower
    assert names(**{"eval.held_out_listener": "tiny"}) == plain
    assert names(**asked, **{"listener.path": str(other)})[-1] == "eval_listener"
    found = {x.name: x for x in trace_run(tiny(**asked), mesh_of_four(), same)}
    asked = ("eval_listener", "eval_held_out")
    groups = [found[name].arguments[-1].shape[1] for name in asked]
    assert groups == [3, 3]  # listeners have a member that reads no trace
    assert len(found["update"].alive["frozen models"]) == 2


def test_a_plan_of_a_held_out_judge_asks_for_its_tokens():
    values = preset_config("tiny")
    sizes = {name: x for name, x in SIZES.items() if name != "data.judge_tokens"}
    judged = {"listener.style": "judge", "algorithm": "grpo", "eval.held_out_listener": "tiny"}
    values.update_from_flattened_dict(sizes | judged)
    with pytest.raises(ValueError, match="give --config.data.judge_tokens=N$"):
        trace_run(parse_config(values), mesh_of_four(), same)


def test_on_one_device_of_the_same_dtype_nothing_is_copied():
    from lrt_jax.parallel.mesh import one_device_mesh

    found = [piece.name for piece in trace_run(tiny(), one_device_mesh(), same)]
    assert "copy" not in found and "rollout" in found


def test_a_copy_in_int8_is_what_is_sampled_from():
    """In training; an evaluation samples from a whole one."""
    changes = {"sampling.weights": "int8", "loss.importance_sampling_cap": 2.0}
    found = {x.name: x for x in trace_run(tiny(**changes), mesh_of_four(), same)}
    of_int8 = {
        name: any(x.dtype == "int8" for x in found[name].arguments)
        for name in ("copy", "rollout", "update", "eval_copy", "eval_rollout")
    }
    assert [name for name, is_int8 in of_int8.items() if is_int8] == ["rollout"]
    assert {"copy", "eval_copy"} <= found.keys()


def test_the_copy_for_sampling_is_gone_when_the_update_comes():
    """Though not from an evaluation, which has one copy for all its batches."""
    found = {x.name: x for x in trace_run(tiny(**{"loss.beta": 0.1}), mesh_of_four(), same)}
    held = [name for name, piece in found.items() if tracing.COPY in piece.alive]
    assert held == [
        *("encode", "rollout"),
        *("eval_encode", "eval_rollout", "eval_listener"),
    ]
    assert all("optimizer" in piece.alive for piece in found.values())
    assert "rollout" in found["update"].alive and "features" in found["update"].alive


def test_sizes_that_only_the_data_know_are_asked_for():
    values = preset_config("tiny")
    values.data.source = "scenes"
    with pytest.raises(ValueError, match="give --config.data.prompt_tokens=N$"):
        trace_run(parse_config(values), mesh_of_four(), same)
    values.listener.style, values.data.max_patches = "judge", None
    flags = "--config.data.max_patches=N --config.data.prompt_tokens=N --config.data.judge_tokens=N"
    with pytest.raises(ValueError, match=f"measured from the data.*give {flags}"):
        trace_run(parse_config(values), mesh_of_four(), same)


class Silent(Algorithm):
    """Says nothing of what it compiles."""

    def init(self, params):
        return self.begin(params, 1)[1]

    def step(self, state, host_batch, step, monitor): ...

    def report(self, result): ...


def test_an_algorithm_that_does_not_say_what_it_compiles():
    config = tiny(algorithm=f"{__name__}:Silent", **{"listener.weight": 0.0})
    with pytest.raises(ValueError, match="Silent does not say .* a method trace_step, see"):
        trace_run(config, mesh_of_four(), same)


class Unfinished(Silent):
    """Says what it compiles, of which JAX cannot do something."""

    def trace_step(self, state, batch, trace):
        raise NotImplementedError("no gradient of this kernel")


def test_what_jax_cannot_do_is_not_blamed_on_the_algorithm():
    config = tiny(algorithm=f"{__name__}:Unfinished", **{"listener.weight": 0.0})
    with pytest.raises(NotImplementedError, match="no gradient of this kernel"):
        trace_run(config, mesh_of_four(), same)


def test_a_family_that_does_not_count(monkeypatch):
    class Family:
        flops = None

    monkeypatch.setattr(tracing, "family", lambda config: Family)
    with pytest.raises(ValueError, match="'qwen2_5_vl': its FAMILY has no `flops`"):
        trace_run(tiny(), mesh_of_four(), same)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"mesh.tensor": 3}, ValueError, "tensor=3 needs 6 devices"),
        ({"batch_size": 12}, ConfigError, "12 rows at a time do not divide over the mesh of 8"),
        ({"eval.batch_size": 4}, ConfigError, "eval.batch_size: 4 rows at a time"),
        ({"model.path": "nobody/nothing"}, FileNotFoundError, "Qwen/Qwen2.5-VL-7B-Instruct"),
    ],
)
def test_what_cannot_run_is_told_before_libtpu_is_asked(changes, error, told):
    with pytest.raises(error, match=told):
        make_plan(tiny(**changes), Topology("v5e:2x4"))


# ---------------------------------------------------------------------------- models


def test_a_folder_tells_all_of_itself():
    found = find_model("tiny", PromptOptions(), same)
    assert found.checkpoint == str(assets.tiny_model()) and not found.note
    assert found.config.unspelled_token_ids is not None and found.judge_tail > 0


def test_a_folder_needs_a_config_alone(tmp_path):
    shutil.copy(assets.tiny_model() / "config.json", tmp_path)
    found = find_model(str(tmp_path), PromptOptions(), same)
    assert found.judge_tail == 9 and "no tokenizer" in found.note
    assert json.loads((tmp_path / "config.json").read_bytes())["model_type"] == "qwen2_5_vl"


def test_published_sizes_are_named_as_such():
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    found = find_model(name, PromptOptions(), same)
    assert found.config == published_models()[name].config and "as published" in found.note
    own_words = PromptOptions(judge_after="Which one? ")
    assert "taken to have 9 tokens" in find_model(name, own_words, same).note


def test_the_tail_of_a_judge_is_that_of_the_prompts():
    longer = PromptOptions(judge_after="Which of the two is better, the first or the second? ")
    tails = [find_model("tiny", x, same).judge_tail for x in (PromptOptions(), longer)]
    assert tails[0] != tails[1]


def test_a_model_in_the_cache_of_the_hub_is_read(monkeypatch):
    path = str(assets.tiny_model() / "config.json")
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda name, file: path)
    found = find_model("somebody/their-model", PromptOptions(), same)
    assert found.checkpoint == str(assets.tiny_model())


def test_changed_sizes_reach_every_role():
    def one_layer(config):
        import dataclasses

        return dataclasses.replace(config, text=dataclasses.replace(config.text, num_layers=1))

    found = pieces.trace_run(tiny(**{"loss.beta": 0.1}), mesh_of_four(), one_layer)
    [frozen] = found[-1].alive["frozen models"][:1]
    assert frozen["decoder"]["layers"]["mlp"]["up"]["kernel"].shape[0] == 1
