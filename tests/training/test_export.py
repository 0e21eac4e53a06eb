"""What a run exports: the hub's layout, a card with true figures, and code that does as it says."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from absl import flags
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.numpy import load_file

from lrt_jax import assets, export
from lrt_jax.cli import commands
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.dataset.trained_on import TrainedOn
from lrt_jax.data.input.patches import ImagePolicy, encoded_size, pair_grids
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.models import load_model, read_config, save_pretrained
from lrt_jax.models.checkpoint_folder import TensorFiles
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.results import result_rows
from lrt_jax.storage.bucket import BucketError
from lrt_jax.storage.digests import SEAL, sealed
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import hub, setup
from lrt_jax.training.export import (
    apart_from_training,
    check_exportable,
    export_checkpoint,
    generation_config,
    processor_configs,
    record_settings,
)
from lrt_jax.training.files import recorded_config
from lrt_jax.training.loop import train
from tests.hf import image_only_processor
from tests.logs import logged
from tests.models.hf_reference import SHAPES, make_checkpoint
from tests.training.hub_models import NAME, model_hub
from tests.training.small_run import tiny_config, write_hpdv2

# Tensors of Qwen2.5-VL as its published checkpoints name them, and as vLLM maps them to its own.
HUB_NAMES = {
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.norm.weight",
    "model.layers.N.input_layernorm.weight",
    "model.layers.N.post_attention_layernorm.weight",
    *(f"model.layers.N.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    *(f"model.layers.N.self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"model.layers.N.self_attn.{name}_proj.bias" for name in "qkv"),
    "visual.patch_embed.proj.weight",
    "visual.blocks.N.norm1.weight",
    "visual.blocks.N.norm2.weight",
    *(f"visual.blocks.N.attn.{x}.{y}" for x in ("qkv", "proj") for y in ("weight", "bias")),
    *(
        f"visual.blocks.N.mlp.{x}_proj.{y}"
        for x in ("gate", "up", "down")
        for y in ("weight", "bias")
    ),
    "visual.merger.ln_q.weight",
    *(f"visual.merger.mlp.{x}.{y}" for x in (0, 2) for y in ("weight", "bias")),
}


LICENCE = "Fais ce qu'il te pla\u00eet".encode("latin-1")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The built-in model with files as others have them: big images, a card with a fault."""
    folder = shutil.copytree(assets.tiny_model(), tmp_path_factory.mktemp("base") / "model")
    (folder / "LICENSE").write_bytes(LICENCE)
    (folder / "README.md").write_bytes(b"---\n1: a number\nlicense: mit\n---\nna\xefve\n")
    changes = {
        "preprocessor_config.json": {"max_pixels": 12845056},
        "generation_config.json": {"temperature": 0.1, "top_p": 0.8, "top_k": 20, "min_p": 0.1},
    }
    for name, fields in changes.items():
        content = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def run(data, base, tmp_path_factory):
    """Workdir of a run of two steps on one device, evaluated at its start and end."""
    workdir = tmp_path_factory.mktemp("run")
    changes = {"steps": 2, "checkpoint_every": 1, "eval.every": 0, "model.path": str(base)}
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        train(tiny_config(data, **changes), LocalWorkdir(workdir))
    return workdir


def use_one_device(patch):
    patch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---------------------------------------------------------------------------- from a checkpoint


def test_a_checkpoint_exports_as_the_run_did_from_its_folder_alone(run, tmp_path, monkeypatch):
    """No data, no listener, no weights but the checkpoint's, on more devices; the same bytes."""
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir, ignore=shutil.ignore_patterns("data", "export", "metrics.jsonl"))

    def refuse(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr(setup, "open_run", refuse)
    monkeypatch.setattr("lrt_jax.models.checkpoint_folder.load_params", refuse)
    assert export_checkpoint(workdir, tmp_path / "model") == 2
    assert contents(tmp_path / "model") == contents(run / "export")


def command(monkeypatch, *arguments):
    """Runs `python -m lrt_jax.export` in this process."""
    values = flags.FlagValues()
    export.define_flags(values)
    values(["export", *arguments])
    monkeypatch.setattr(commands, "start", lambda: None)  # this process has started
    export.main(values)


def test_the_command_puts_the_model_on_the_hub(run, tmp_path, monkeypatch, capsys):
    output, arguments = (
        tmp_path / "model",
        [f"--checkpoint={run}", f"--output={tmp_path / 'model'}"],
    )
    with model_hub(monkeypatch) as server:
        command(monkeypatch, *arguments, f"--push_to_hub={NAME}")
        assert server.files == contents(output) == contents(run / "export")
        assert server.private and server.commits == ["Step 2"]
        told = f"model of step 2: {output}\non the Hub: {server.address}/{NAME}\n"
        assert capsys.readouterr().out == told


def test_a_hub_that_refuses_is_met_before_the_export(run, tmp_path, monkeypatch):
    arguments = [f"--checkpoint={run}", f"--output={tmp_path / 'model'}", f"--push_to_hub={NAME}"]
    with model_hub(monkeypatch) as server:
        server.private = True
        with pytest.raises(hub.PushError, match="leave out --public"):
            command(monkeypatch, *arguments, "--public")
    assert not (tmp_path / "model").exists()


def test_a_bucket_that_there_is_not_is_named_with_the_remedy(run, things, monkeypatch):
    told = "gs://nowhere/model: cannot be read .no such bucket.*gcloud auth"
    with pytest.raises(BucketError, match=told):
        command(monkeypatch, f"--checkpoint={run}", "--output=gs://nowhere/model")


@pytest.mark.parametrize("place", ["bucket", "docs[1]"])
def test_the_command_replaces_nothing_of_others(run, things, tmp_path, monkeypatch, place):
    (tmp_path / place).mkdir()
    (tmp_path / place / "thesis.txt").write_bytes(b"years of work")
    things.put("things", "model/thesis.txt", b"years of work")
    output = "gs://things/model" if place == "bucket" else str(tmp_path / place)
    with pytest.raises(FileExistsError, match=r"holds thesis\.txt and no lrt_jax_files\.json"):
        command(monkeypatch, f"--checkpoint={run}", f"--output={output}")
    assert things.buckets["things"] == {"model/thesis.txt": b"years of work"}
    assert contents(tmp_path / place) == {"thesis.txt": b"years of work"}


def test_an_earlier_step(run, tmp_path):
    assert export_checkpoint(run, tmp_path / "model", step=1) == 1
    earlier, last = (
        load_file(x / "model.safetensors") for x in (tmp_path / "model", run / "export")
    )
    assert any((earlier[name] != last[name]).any() for name in last)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "The checkpoint of this step was not evaluated." in card
    assert "take no figure of another step" in card and "| before |" not in card
    assert ModelCard(card).data.eval_results is None


def test_what_cannot_be_exported(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7; there are: 1, 2"):
        export_checkpoint(run, tmp_path / "model", step=7)
    with pytest.raises(FileNotFoundError, match="config.json: no such file; name the folder of a"):
        export_checkpoint(tmp_path, tmp_path / "model")
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    recorded = json.loads((workdir / "config.json").read_text())
    recorded["inputs"]["model"] = "another"
    (workdir / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(ValueError, match="the model is not the one that it began with"):
        export_checkpoint(workdir, tmp_path / "model")
    recorded = json.loads((run / "config.json").read_text())
    recorded["config"]["rewards"]["accuracy"] = 0.25
    (workdir / "config.json").write_text(json.dumps(recorded))
    told = "checkpoints/2: is of another run, with another config; take another --step"
    with pytest.raises(ValueError, match=told):
        export_checkpoint(workdir, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_settings_that_are_gone_are_those_of_the_export(run, tmp_path):
    """As the error says, and not what the run's own command makes: it says that it has ended."""
    workdir = shutil.copytree(run, tmp_path / "run")
    (workdir / "lrt_jax.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"copy that of {workdir}/export"):
        export_checkpoint(workdir, tmp_path / "model")
    shutil.copy(workdir / "export" / "lrt_jax.json", workdir)
    export_checkpoint(workdir, tmp_path / "model")
    assert contents(tmp_path / "model") == contents(run / "export")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_of_all_tensors_which_the_config_names_too(run, tmp_path, dtype):
    export_checkpoint(run, tmp_path / "model", dtype=dtype)
    whole, cast = (load_file(x / "model.safetensors") for x in (run / "export", tmp_path / "model"))
    assert {tensor.dtype for tensor in cast.values()} == {jnp.dtype(dtype)}
    # the export has the source's dtype, and what is cast comes from the checkpoint's float32
    for name in whole:
        np.testing.assert_array_equal(cast[name].astype(whole[name].dtype), whole[name])
    opened = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert str(opened.dtype) == f"torch.{dtype}"


# ---------------------------------------------------------------------------- where it may go


def test_models_that_the_run_reads_are_not_written_over(run, base, one, tmp_path):
    """Neither the base nor a listener, not even where they are exports themselves."""
    workdir = shutil.copytree(run, tmp_path / "run")
    listener = tmp_path / "listener" / "export"
    save_pretrained(one.params, listener, source=one.folder)
    recorded = json.loads((workdir / "config.json").read_text())
    recorded["config"]["listener"]["path"] = str(listener.parent)
    (workdir / "config.json").write_text(json.dumps(recorded))
    for folder in (base, listener):
        before = contents(folder)
        with pytest.raises(FileExistsError, match="the run reads the model in it; take another"):
            export_checkpoint(workdir, folder)
        assert contents(folder) == before


def test_the_runs_own_export_is_replaced(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    export_checkpoint(workdir, workdir / "export", step=1)
    export_checkpoint(workdir, workdir / "export")
    assert contents(workdir / "export") == contents(run / "export")


def test_an_export_behind_a_link_is_replaced_and_the_link_stays(run, tmp_path):
    (tmp_path / "models").mkdir()
    link, target = tmp_path / "model", tmp_path / "models" / "mine"
    link.symlink_to(target)
    for step in (1, 2):
        export_checkpoint(run, link, step=step)
        assert link.is_symlink() and link.resolve() == target
        assert [path.name for path in target.parent.iterdir()] == ["mine"]
    assert contents(target) == contents(run / "export")


def test_a_run_that_could_not_export_ends_before_its_first_step(run, tmp_path, monkeypatch):
    monkeypatch.setattr("lrt_jax.training.loop.evaluate_once", None)  # which comes before step 1
    use_one_device(monkeypatch)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"export: holds thesis\.txt"):
        train(recorded_config(run), LocalWorkdir(tmp_path))
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["thesis.txt"]


def test_what_no_card_can_be_made_of_is_met_before_the_first_step(run, tmp_path, monkeypatch):
    workdir = shutil.copytree(run, tmp_path / "run")
    check_exportable(workdir)
    assert contents(workdir / "export") == contents(run / "export")
    # Such as a name that no text can hold.
    monkeypatch.setattr("lrt_jax.training.export.model_card", lambda *_, **__: "a\udcffb")
    with pytest.raises(ValueError, match=r"model: cannot be used .*surrogates.*name another model"):
        check_exportable(workdir)


def test_a_folder_of_any_name_can_be_trained_from(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    settings = json.loads((workdir / "lrt_jax.json").read_text())
    settings["trained_from"]["model"] = "a\udcffb"  # Latin-1, which no text can hold
    (workdir / "lrt_jax.json").write_text(json.dumps(sealed(settings)))
    check_exportable(workdir)


@pytest.mark.parametrize("name", ["lrt_jax.json", "trained_on.json"])
def test_settings_that_were_changed_are_told_by_their_file(run, tmp_path, name):
    workdir = shutil.copytree(run, tmp_path / "run")
    whole = json.loads((workdir / name).read_text())
    first = next(iter(whole))
    unsealed = {name: value for name, value in whole.items() if name != SEAL} | {first: "other"}
    changes = [json.dumps(content).encode() for content in (whole | {first: "other"}, unsealed)]
    for changed in (b"\xb0", *changes, b"[]", b"{}", b"[" * 100_000):
        (workdir / name).write_bytes(changed)
        with pytest.raises(ValueError, match=f"{workdir / name}: "):
            check_exportable(workdir)


# ---------------------------------------------------------------------------- asked as trained


def test_programs_make_as_many_tokens_of_an_image_as_training_did(run, base):
    image = Image.new("RGB", (2000, 1500), "red")
    policy = ImagePolicy(**json.loads((run / "lrt_jax.json").read_text())["images"])
    grid = encoded_size(1500, 2000, policy, read_config(base).vision)
    theirs, sources = (
        transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)(image, return_tensors="np")
        for folder in (run / "export", base)
    )
    assert theirs["image_grid_thw"].tolist() == [[1, *grid]]
    assert grid[0] * grid[1] <= 64 < 15_000 < len(sources["pixel_values"])


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"min_pixels": 4, "max_pixels": 12845056},
        {"size": {"shortest_edge": 4, "longest_edge": 12845056}},
        {"min_pixels": 4, "size": {"shortest_edge": 4, "longest_edge": 12845056}},
    ],
)
def test_trained_sizes_go_into_the_fields_that_there_are(tmp_path, name, sizes):
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, **sizes}
    content = {"image_processor": processor} if name.startswith("processor") else processor
    (tmp_path / name).write_text(json.dumps(content))
    texts = processor_configs({"min_pixels": 3136, "max_pixels": 50176}, tmp_path)
    assert texts.keys() == {name}
    (tmp_path / name).write_text(texts[name])
    opened = transformers.Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    assert (opened.size["shortest_edge"], opened.size["longest_edge"]) == (3136, 50176)
    assert texts[name].count("3136") == len({"size", "min_pixels"} & sizes.keys()) or not sizes


def test_a_file_of_other_processors_is_left_as_it_is(tmp_path):
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor"}')
    assert processor_configs({"min_pixels": 3136, "max_pixels": 50176}, tmp_path) == {}


def test_programs_sample_as_training_did(run, base):
    sampling = transformers.GenerationConfig.from_pretrained(run / "export")
    names = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
    assert [getattr(sampling, name) for name in names] == [True, 1.0, 1.0, 0, 1.0]
    assert sampling.min_p is None
    assert sampling.max_new_tokens == recorded_config(run).max_completion_length
    source = transformers.GenerationConfig.from_pretrained(base)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(sampling, name) == getattr(source, name) is not None


def test_a_folder_without_sampling_gets_the_ends_that_training_had(tmp_path):
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_completion_length": 9, "stop_ids": [7, 8]}
    content = json.loads(generation_config(sampling, tmp_path))
    assert content["eos_token_id"] == [7, 8] and content["max_new_tokens"] == 9


# ---------------------------------------------------------------------------- training data


def evaluation(run, tmp_path, source, **changes):
    """The run of an evaluation of the exported model, opened."""
    config = tiny_config(source, **{"data.train_split": ""} | changes)
    return setup.open_run(config, tmp_path / "eval", policy=str(run))[0]


def test_training_pairs_are_found_in_a_set_that_was_cut_otherwise(run, data, tmp_path):
    """The set is another, by its fingerprint, and its splits have other captions."""
    fractions = {"train": 0.5, "held_out": 0.5}
    options = {"split_fractions": fractions, "seed": 5, "near_duplicates": "keep"}
    prepare("hpdv2", data, tmp_path / "other", **options)
    changes = {"data.split_fractions": {}, "eval.split": "held_out"}
    opened = evaluation(run, tmp_path, tmp_path / "other", **changes)
    told = r"\d+ of \d+ pairs of split 'held_out' were trained on, and 0 more .*_pairs=skip"
    with pytest.raises(ValueError, match=told):
        apart_from_training(opened, skip=False)
    with logged() as lines:
        apart = apart_from_training(opened, skip=True)
    assert len(lines) == 1 and lines[0].endswith("they are left out")
    mine = PreparedSet(run / "data")
    trained = {mine.pair(row).prompt for row in mine.rows("train")}
    kept = {int(row) for batch in apart.eval_loader() for row in batch.target.pair}
    captions = {opened.prepared.pair(row).prompt for row in opened.prepared.rows("held_out")}
    assert {opened.prepared.pair(row).prompt for row in kept} == captions - trained
    assert captions & trained and kept


def test_a_split_that_was_trained_on_names_those_that_were_not(run, data, tmp_path):
    opened = evaluation(run, tmp_path, data, **{"eval.split": "train"})
    with pytest.raises(ValueError, match="'train' were trained on.*; take --split=validation$"):
        apart_from_training(opened, skip=True)
    opened = evaluation(run, tmp_path, data, **{"eval.split": "validation"})
    assert apart_from_training(opened, skip=False) is opened


def test_what_a_model_was_trained_on_before_is_handed_on(run, data, tmp_path):
    """To the exports of runs that start from it, unless their weights are new."""
    other = write_hpdv2(tmp_path / "in", seed=1)
    before = TrainedOn.read(run / "export" / "trained_on.json")
    for from_scratch in (False, True):
        config = tiny_config(other, **{"model.path": str(run / "export")})
        workdir = tmp_path / f"run-{from_scratch}"
        opened, _ = setup.open_run(config, workdir)
        model = dataclasses.replace(config.model, from_scratch=from_scratch)
        opened = dataclasses.replace(opened, config=dataclasses.replace(config, model=model))
        record_settings(opened, workdir)
        after = TrainedOn.read(workdir / "trained_on.json")
        assert np.isin(before.pairs, after.pairs).all() == (not from_scratch)
        assert len(after.pairs) > len(before.pairs) or from_scratch


# ---------------------------------------------------------------------------- layout


def test_names_and_config_are_those_of_published_checkpoints(run):
    names = {
        re.sub(r"\.\d+\.(?!weight|bias)", ".N.", x) for x in TensorFiles(run / "export").names()
    }
    assert names == HUB_NAMES - {"lm_head.weight"}  # the built-in model's is the embedding
    config, source = (
        (x / "config.json").read_bytes() for x in (run / "export", assets.tiny_model())
    )
    assert config == source
    content = json.loads(config)
    assert content["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    flat = {"hidden_size", "num_hidden_layers", "rope_scaling", "vocab_size", "vision_config"}
    assert flat <= content.keys() and "text_config" not in content


@pytest.mark.parametrize("hub_layout", [True, False])
@pytest.mark.parametrize("shape", ["tied", "three_kv_heads"])
def test_a_model_in_either_layout_comes_out_in_the_hubs(tmp_path, shape, hub_layout):
    make_checkpoint(tmp_path / "hub", SHAPES[shape])
    make_checkpoint(tmp_path / "source", SHAPES[shape], hub_layout=hub_layout)
    _, params = load_model(tmp_path / "source")
    save_pretrained(params, tmp_path / "out", source=tmp_path / "source", max_shard_size="60KB")
    wanted = stored(tmp_path / "hub")
    assert stored(tmp_path / "out") == wanted
    names = {re.sub(r"\.\d+\.(?!weight|bias)", ".N.", name) for name in wanted}
    assert names == HUB_NAMES - ({"lm_head.weight"} if SHAPES[shape].tie else set())


def stored(folder):
    """Shape, dtype and bytes of every tensor, by the name that its file gives it."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return {name: (x.shape, x.dtype, x.tobytes()) for name, x in tensors.items()}


# ---------------------------------------------------------------------------- card


def test_the_licence_goes_along_byte_for_byte_and_the_card_names_it(run):
    assert (run / "export" / "LICENSE").read_bytes() == LICENCE
    assert ModelCard.load(run / "export" / "README.md").data.license == "mit"


def test_the_card_holds_the_figures_of_the_results(run):
    results = json.loads((run / "results.json").read_text())
    card = ModelCard.load(run / "export" / "README.md")
    rows = [line.strip("|").split("|") for line in card.text.splitlines() if line.startswith("| ")]
    table = [tuple(cell.strip() for cell in row) for row in rows[1:]]
    assert table == list(result_rows(results)) and len(table) >= 9
    after = results["after"]
    sampled = next(row for row in table if row[0] == "accuracy, sampled")
    assert sampled[2].startswith(f"{after['accuracy']:.3f}".removeprefix("0"))
    scores = {score.metric_name: score.metric_value for score in card.data.eval_results}
    assert scores == {
        "accuracy, sampled": round(after["accuracy"], 4),
        "accuracy, greedy": round(after["accuracy_greedy"], 4),
        "accuracy as reward model": round(after["accuracy_reward_model"], 4),
    }
    assert "On 4 pairs of the split `validation` of hpdv2" in card.text
    assert f"{after['unparsed']} of 8 samples had no readable answer" in card.text


def test_the_code_of_the_card_asks_as_training_did(run, tmp_path, monkeypatch, capsys):
    """Its prompt has the tokens of ours, its images our sizes, and it answers."""
    card = ModelCard.load(run / "export" / "README.md")
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.chdir(shutil.copytree(run / "export", tmp_path / "model"))
    for name, size in (("first.png", (900, 600)), ("second.png", (400, 1200))):
        Image.new("RGB", size, "red").save(name)

    class Opener:  # of what needs no torchvision
        from_pretrained = staticmethod(image_only_processor)

    monkeypatch.setattr(transformers, "AutoProcessor", Opener)
    scope = {}
    exec(code, scope)
    opened, _ = setup.open_run(recorded_config(run), run)
    encoder = opened.encoder
    grids = pair_grids((600, 900), (1200, 400), encoder.policy, encoder.vision)
    assert scope["inputs"]["image_grid_thw"][:, 1:].tolist() == [list(grid) for grid in grids]
    prompt = encoder.prompt.encode(scope["caption"], grids)
    assert scope["inputs"]["input_ids"][0].tolist() == prompt.tokens[: prompt.length].tolist()
    assert capsys.readouterr().out == scope["answer"] + "\n" and scope["answer"]
