"""Makes a built-in model: first the folder that it starts from, then the one that ships.

    python -m lrt_jax.assets.make_tiny --model=tiny --output=FOLDER
    python -m lrt_jax.main --config=configs/scenes.py:sft --workdir=RUN --config.model.path=FOLDER
    python -m lrt_jax.assets.make_tiny --model=tiny --run=RUN --output=lrt_jax/assets/tiny

The first writes a tokenizer, sizes and weights that nobody has taught. The second draws weights of
these sizes by its own seed, and teaches them; without a path it takes tokenizer and sizes of the
model that ships. The third writes what the run has taught in bfloat16, with a card. The same with
`tiny_listener` and `configs/scenes.py:sft_listener` makes the other model.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from lrt_jax.assets import BUILT_IN, TINY, TINY_LISTENER
from lrt_jax.assets.tokenizer import write_tokenizer
from lrt_jax.cli import commands
from lrt_jax.data.scenes.world import COLOURS, HELD_OUT, HELD_OUT_CAPTIONS, SHAPES
from lrt_jax.models import (
    TRAINED_ON,
    check_replaceable,
    empty_model,
    init_params,
    record_files,
    save_pretrained,
)
from lrt_jax.models.checkpoint_folder import TensorFiles
from lrt_jax.storage.disk import new_folder, read_fields, read_plainly

MAX_PIXELS = 224 * 224
DTYPE = "bfloat16"  # of the weights, as on the hub
ENDED = "take a run that has ended"
PRESETS = {TINY: "sft", TINY_LISTENER: "sft_listener"}  # of configs/scenes.py, which teach them


class Sizes(NamedTuple):
    """Of decoder and vision tower; both have heads of `HEAD` numbers."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vision_hidden: int
    vision_mlp: int
    vision_layers: int


HEAD = 24  # numbers of a decoder's head: 12 pairs, which time, height and width share evenly
SIZES = {
    TINY: Sizes(96, 256, 4, 4, 2, 64, 128, 2),
    TINY_LISTENER: Sizes(144, 400, 6, 6, 2, 96, 192, 3),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "output", "Folder to write.")
    flags.DEFINE_enum("model", TINY, BUILT_IN, "Which of the two.", flag_values=values)
    flags.DEFINE_string("run", None, "Workdir of the run that taught it.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    if values.run is None:
        commands.start()
        write_fresh(Path(values.output), values.model)
    else:
        ship(Path(values.run), Path(values.output), values.model)


def write_fresh(folder: Path, name: str = TINY, *, seed: int = 0) -> Path:
    """Writes a model with random weights in the hub's layout.

    Args:
      folder: to write.
      name: whose sizes it has, one of `BUILT_IN`.
      seed: of the weights.
    """
    source = folder.with_name(f".{folder.name}.source")
    try:
        tokenizer = write_tokenizer(source, max_pixels=MAX_PIXELS)
        content = json.dumps(hub_config(tokenizer, SIZES[name]), indent=2) + "\n"
        (source / "config.json").write_text(content, encoding="utf-8")
        params = init_params(empty_model(source), jax.random.key(seed))
        save_pretrained(params, folder, source=source, dtype=jnp.dtype(DTYPE))
    finally:
        shutil.rmtree(source, ignore_errors=True)
    return folder


def ship(run: Path, folder: Path, name: str = TINY) -> None:
    """Copies a run's export, with a card that tells how it was made and how good it is.

    Args:
      run: workdir of a run that has ended.
      folder: to write.
      name: of the model, one of `BUILT_IN`.

    Raises:
      FileNotFoundError: the run has not ended.
      FileExistsError: the folder holds a file that no export wrote.
    """
    if not (run / "results.json").is_file():
        raise FileNotFoundError(f"{run / 'results.json'}: no such file; has the run ended?")
    check_replaceable(folder)
    config = read_fields(run / "config.json", ENDED)
    with new_folder(folder, replace=True) as part:
        # What it was taught on is held out of evaluations by caption, and need not be listed.
        left_out = shutil.ignore_patterns(TRAINED_ON)
        shutil.copytree(run / "export", part, dirs_exist_ok=True, ignore=left_out)
        with read_plainly(run / "results.json", ENDED):
            results = read_fields(run / "results.json", ENDED)
            text = card(name, results, config["config"], count_parameters(part))
        (part / "README.md").write_text(text, encoding="utf-8")
        record_files(part)


def count_parameters(folder: Path) -> int:
    """Numbers in a folder's safetensors."""
    files = TensorFiles(folder)
    return sum(math.prod(files.shape(name)) for name in files.names())


def card(name: str, results: Mapping, config: Mapping, parameters: int) -> str:
    """The model card, filled with a run's own figures.

    Args:
      name: of the model, one of `BUILT_IN`.
      results: what its `results.json` holds.
      config: of the run.
      parameters: numbers of the model.
    """
    scenes = config["data"]["scenes"]
    slips = ", ".join(f"{what} {rate:g}" for what, rate in scenes["corruption"].items() if rate)
    three = round(scenes["train"] * scenes["three_objects"])
    splits = {results["split"]: results["after"]}
    splits |= {split: both["after"] for split, both in results["splits"].items()}
    return CARD.format(
        name=name,
        preset=PRESETS[name],
        about=ABOUT[name],
        parameters=parameters / 1e6,
        steps=results["steps"],
        minutes=round(results["seconds"] / 60),
        batch=config["batch_size"],
        captions=scenes["train"],
        objects="two objects" if not three else f"two objects, {three:,} of them of three",
        images=scenes["images"],
        kept_out=len(HELD_OUT),
        combinations=len(COLOURS) * len(SHAPES),
        one_in=HELD_OUT_CAPTIONS,
        slips=f"Share of statements that slip: {slips}" if slips else "No statement slips",
        bare=f"; {scenes['bare']:.0%} of them are an answer alone" if scenes["bare"] else "",
        pairs=results["after"]["pairs"],
        head=" | ".join(splits),
        line="|---" * len(splits),
        **{
            field: " | ".join(_figure(after, field) for after in splits.values())
            for field in ("accuracy", "accuracy_greedy", "trace_truth")
        },
    )


def _figure(after: Mapping, field: str) -> str:
    low, high = after[f"{field}_ci95"]
    return f"{after[field]:.3f} [{low:.3f}, {high:.3f}]"


ABOUT = {
    TINY: """It is the reasoner of the built-in run. Its lessons are descriptions with slips, so
that there is something left to learn.""",
    TINY_LISTENER: """It is a listener: it reads what another model of the same tokenizer has
thought about two scenes, and says which one it would choose. The built-in run measures with it, and
may be rewarded by it (`--config.listener.path=tiny_listener`).""",
}
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# lrt_jax {name}

A Qwen2.5-VL of {parameters:.2f} million parameters with a byte-level tokenizer of its own, so that
every stage of a run can be tried on any machine, and learns something. Shown a caption and two
drawn scenes, it describes both and says which one follows the caption better:

    <think>First: small red circle left yes, large but green cross right near, sharp, four.
    Second: ...</think><answer>1</answer>

{about} Of other pictures it knows nothing.

**Data**: scenes drawn by `lrt_jax.data.scenes` for {captions:,} captions of {objects},
{images} images each, ranked by noisy annotators. {kept_out} of the {combinations} combinations of
colour and shape, and one caption in {one_in}, by its text, are held out of everything it was
taught on. {slips}{bare}.

**How good it is**, on {pairs} pairs of each split of held-out captions, each in both orders (95 %
intervals, clustered by caption); `test_combinations` shows colours and shapes that are new
together, and captions of `test_objects` ask for three objects:

| | {head} |
|---{line}|
| accuracy, sampled at temperature 1 | {accuracy} |
| accuracy, greedy | {accuracy_greedy} |
| share of the objects it describes that are in the image | {trace_truth} |

Teaching varies more than these intervals say: the same lessons in another order give another model.
The same code on the same kind of machine repeats.

**To make it again** ({steps:,} steps of {batch} pairs, {minutes} minutes on two CPU cores):

    python -m lrt_jax.main --config=configs/scenes.py:{preset} --workdir=RUN
    python -m lrt_jax.assets.make_tiny --model={name} --run=RUN --output=FOLDER
"""


def hub_config(tokenizer, sizes: Sizes) -> dict:
    """Sizes, laid out as on the hub: the decoder's fields at the top."""
    names = ("endoftext", "im_end", "image_pad", "video_pad", "vision_start", "vision_end")
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [HEAD // 6] * 3},
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": DTYPE,
        "vocab_size": len(tokenizer),
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "vision_config": {
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": sizes.vision_mlp,
            "num_heads": 4,
            "out_hidden_size": sizes.hidden,
            "hidden_act": "silu",
            "in_chans": 3,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "model_type": "qwen2_5_vl",
        },
    }


if __name__ == "__main__":
    commands.run(main, define_flags)
