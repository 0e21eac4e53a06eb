"""Comparing pairs of images: beside transformers' `generate`, swapped, and in sparse tournaments.

    python -m benchmarks.comparisons --parts=speed,swaps,ranks --pairs=64 [--gallery=FOLDER]

`speed` makes the same comparisons, both orders, greedy and without a listener, in one process: ours
at its default batch and one by one; transformers' `generate` with batches of 8 prompts and one by
one. `swaps` compares random pairs, and again with their images exchanged, and counts answers that
do not add up to exactly 1. `ranks` takes groups of 8 scenes, and of images of a folder in HPDv2's
layout, and gives Kendall's tau of rankings by k anchors and by all pairs.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from lrt_jax import RewardModel
from lrt_jax.cli import commands
from lrt_jax.config import PromptOptions
from lrt_jax.data.input.prompts import answer_position, parse, render
from lrt_jax.data.input.tokenizer import answer_token_ids
from lrt_jax.data.scenes.samples import scene_groups
from lrt_jax.inference.settings import read_settings
from lrt_jax.models import read_config
from lrt_jax.models.folders import model_folder

PEER_BATCH = 8  # prompts
GROUP = 8  # images of a ranking
ANCHORS = (1, 2, 4)


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    flags.DEFINE_list("parts", ["speed"], "Of speed, swaps, ranks.", flag_values=values)
    flags.DEFINE_string("model", "tiny", "As of RewardModel.", flag_values=values)
    flags.DEFINE_integer("pairs", 64, "That are compared.", flag_values=values)
    flags.DEFINE_integer("repeats", 3, "Of each measurement of time.", flag_values=values)
    flags.DEFINE_integer("groups", 16, "Of images that are ranked.", flag_values=values)
    flags.DEFINE_string("gallery", None, "Folder of real images to rank too.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    model = RewardModel.from_pretrained(values.model)
    model.warm_up()
    parts = {
        "speed": lambda: speed(model, values.model, values.pairs, values.repeats),
        "swaps": lambda: swaps(model, values.pairs),
        "ranks": lambda: ranks(model, values.groups, values.gallery),
    }
    for part in values.parts:
        commands.log(json.dumps({part: parts[part]()}))


def scene_rows(count: int, seed: int = 0) -> list[dict]:
    """As many distinct pairs to compare."""
    groups = scene_groups(count, 2, seed)
    return [{"caption": text, "first": a, "second": b} for text, (a, b) in groups]


# ---------------------------------------------------------------------------- speed


def speed(model: RewardModel, path: str, pairs: int, repeats: int) -> dict:
    """Comparisons a second of each way, wall clock and CPU; medians of runs that alternate."""
    rows, few = scene_rows(pairs), scene_rows(min(pairs, 2 * PEER_BATCH))
    peer = Peer(path)
    ways: dict[str, tuple[Callable, Sequence[dict]]] = {
        "ours": (lambda rows: list(model.compare_many(rows)), rows),
        "ours, one by one": (lambda rows: [model.compare(**row) for row in rows], few),
        "transformers": (lambda rows: peer.compare(rows, PEER_BATCH), rows),
        "transformers, one by one": (lambda rows: peer.compare(rows, 1), few),
    }
    for way, some in ways.values():
        way(some[:PEER_BATCH])
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    answers = {}
    for _ in range(repeats):
        for name, (way, some) in ways.items():
            began, cpu = time.perf_counter(), time.process_time()
            answers[name] = way(some)
            spent = time.perf_counter() - began, time.process_time() - cpu
            measured[name].append(tuple(len(some) / seconds for seconds in spent))
    figures: dict = {}
    for name, runs in measured.items():
        per_second, per_cpu_second = (statistics.median(x) for x in zip(*runs, strict=True))
        figures[name] = {"per_second": per_second, "per_cpu_second": per_cpu_second}
    ours = np.array([answer.probability for answer in answers["ours"]])
    theirs = np.array(answers["transformers"], float)
    figures["times transformers"] = {
        kind: figures["ours"][kind] / figures["transformers"][kind]
        for kind in ("per_second", "per_cpu_second")
    }
    figures["largest difference of probabilities"] = float(np.nanmax(np.abs(ours - theirs)))
    return figures


class Peer:
    """The same comparisons by transformers alone.

    Args:
      path: of the model.
    """

    def __init__(self, path: str):
        from transformers import Qwen2_5_VLForConditionalGeneration

        from tests.hf import image_only_processor

        folder = model_folder(path)
        self._model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype="float32"
        ).eval()
        self._processor = image_only_processor(folder)
        self._processor.tokenizer.padding_side = "left"
        self._settings = read_settings(folder, read_config(folder).vision)
        self._answer_ids = list(answer_token_ids(self._processor.tokenizer))

    def compare(self, rows: Sequence[dict], batch_size: int) -> list[float]:
        """Probabilities that the first image is preferred; NaN where an order has no answer."""
        prompts = [
            (row["caption"], images)
            for row in rows
            for images in ([row["first"], row["second"]], [row["second"], row["first"]])
        ]
        shown = [
            p
            for start in range(0, len(prompts), batch_size)
            for p in self._shown_first(prompts[start : start + batch_size])
        ]
        return [(a + 1 - b) / 2 for a, b in zip(shown[::2], shown[1::2], strict=True)]

    def _shown_first(self, prompts: Sequence[tuple[str, list]]) -> list[float]:
        import torch

        tokenizer, options = self._processor.tokenizer, self._settings.prompts
        texts = [_text(tokenizer, caption, options) for caption, _ in prompts]
        images = [image for _, pair in prompts for image in pair]
        inputs = self._processor(text=texts, images=images, return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = self._model.generate(
                **inputs,
                max_new_tokens=self._settings.completion_length,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens = out.sequences[:, inputs["input_ids"].shape[1] :].numpy()
        return [self._at_answer(row, out.logits, i) for i, row in enumerate(tokens)]

    def _at_answer(self, tokens: np.ndarray, logits: Sequence, row: int) -> float:
        import torch

        tokenizer = self._processor.tokenizer
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        at = answer_position(tokens, tokenizer, parse(text))
        if at < 0:
            return float("nan")
        return float(torch.softmax(logits[at][row, self._answer_ids], dim=-1)[0])


def _text(tokenizer, caption: str, options: PromptOptions) -> str:
    return render(tokenizer, caption, "reason", options=options)


# ---------------------------------------------------------------------------- swaps


def swaps(model: RewardModel, pairs: int) -> dict[str, int]:
    """How many of some pairs answer otherwise than exactly when their images are exchanged."""
    rows = scene_rows(pairs)
    swapped = [row | {"first": row["second"], "second": row["first"]} for row in rows]
    both = zip(model.compare_many(rows), model.compare_many(swapped), strict=True)
    wrong = sum(one.probability != 1 - other.probability for one, other in both)
    return {"pairs": pairs, "inexact": wrong}


# ---------------------------------------------------------------------------- ranks


def ranks(model: RewardModel, groups: int, gallery: str | None) -> dict:
    """Kendall's tau of sparse rankings against all pairs, mean over groups, and cycles."""
    sets = {"scenes": list(scene_groups(groups, GROUP, seed=1))}
    if gallery:
        sets["gallery"] = gallery_groups(Path(gallery), groups)
    return {name: _taus(model, found) for name, found in sets.items()}


def gallery_groups(folder: Path, count: int) -> list[tuple[str, list[bytes]]]:
    """Captions with `GROUP` images each, of a folder in HPDv2's layout."""
    records = json.loads((folder / "test.json").read_bytes())[:count]
    return [
        (x["prompt"], [(folder / "images" / name).read_bytes() for name in x["image_path"][:GROUP]])
        for x in records
    ]


def _taus(model: RewardModel, groups: Sequence[tuple[str, Sequence]]) -> dict:
    from scipy.stats import kendalltau

    taus: dict[int, list[float]] = {k: [] for k in ANCHORS}
    circles = 0
    for caption, images in groups:
        whole = model.rank(caption=caption, images=images)
        circles += bool(whole.cycles)
        for k in ANCHORS:
            sparse = model.rank(caption=caption, images=images, method="anchors", anchors=k)
            taus[k].append(float(kendalltau(whole.scores, sparse.scores).statistic))
    means = {f"tau, k={k}": float(np.nanmean(values)) for k, values in taus.items()}
    return {"groups": len(groups), **means, "groups with cycles": circles}


if __name__ == "__main__":
    commands.run(main, define_flags)
