"""Comparing pairs of images: beside transformers' `generate`, swapped, and in sparse tournaments.

    python -m benchmarks.comparisons --parts=speed,swaps,ranks --pairs=64 [--gallery=FOLDER]

`speed` makes the same comparisons, both orders, greedy and without a listener, in one process: ours
at its default batch and one by one; transformers' `generate` with batches of 8 prompts and one by
one. `swaps` compares random pairs, and again with their images exchanged, and counts answers that
do not add up to exactly 1. `ranks` takes groups of 8 scenes, and of images of a folder in HPDv2's
layout, and gives Kendall's tau of rankings by k anchors and by all pairs. Of each it prints what
the page on it shows, in Markdown.
"""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from lrt_jax import RewardModel
from lrt_jax.cli import commands
from lrt_jax.config import PromptOptions
from lrt_jax.data.input.prompts import answer_position, parse, render
from lrt_jax.data.input.tokenizer import answer_token_ids
from lrt_jax.data.scenes.samples import scene_groups
from lrt_jax.inference.results import Ranking
from lrt_jax.inference.settings import read_settings
from lrt_jax.models import read_config
from lrt_jax.models.folders import model_folder
from lrt_jax.parallel.progress import progress_bar

PEER_BATCH = 8  # prompts
GROUP = 8  # images of a ranking
ANCHORS = (1, 2, 4)
OURS, THEIRS = (
    "`compare_many`, at its default batch",
    f"transformers' `generate`, {PEER_BATCH} prompts a batch",
)


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
    parts = {
        "speed": lambda: speed_table(speed(model, values.model, values.pairs, values.repeats)),
        "swaps": lambda: swaps_sentence(values.pairs, swaps(model, values.pairs)),
        "ranks": lambda: ranks_table(ranks(model, values.groups, values.gallery)),
    }
    if unknown := [part for part in values.parts if part not in parts]:
        raise ValueError(f"--parts: {', '.join(unknown)}: there are {', '.join(parts)}")
    model = RewardModel.from_pretrained(values.model)
    model.warm_up()
    for part in values.parts:
        commands.log(f"{parts[part]()}\n")


def scene_rows(count: int, seed: int = 0) -> list[dict]:
    """As many distinct pairs to compare."""
    groups = scene_groups(count, 2, seed)
    return [{"caption": text, "first": a, "second": b} for text, (a, b) in groups]


# ---------------------------------------------------------------------------- speed


@dataclasses.dataclass(frozen=True)
class Speeds:
    """What `speed` found.

    Attributes:
      ways: comparisons a second, and a second of CPU, of each way.
      difference: largest one between probabilities of ours and of transformers.
      unread: comparisons in which a reading of transformers' has no answer, and so no probability.
    """

    ways: Mapping[str, tuple[float, float]]
    difference: float
    unread: int


def speed(model: RewardModel, path: str, pairs: int, repeats: int) -> Speeds:
    """Compares in several ways in turn, and takes each one's medians."""
    rows, few = scene_rows(pairs), scene_rows(min(pairs, 2 * PEER_BATCH))
    peer = Peer(path)
    ways: dict[str, tuple[Callable, Sequence[dict]]] = {
        OURS: (lambda rows: list(model.compare_many(rows)), rows),
        "`compare`, one by one": (lambda rows: [model.compare(**row) for row in rows], few),
        THEIRS: (lambda rows: peer.compare(rows, PEER_BATCH), rows),
        "transformers' `generate`, one by one": (lambda rows: peer.compare(rows, 1), few),
    }
    for way, some in ways.values():
        way(some[:PEER_BATCH])
    measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    answers = {}
    turns = [*itertools.product(range(repeats), ways)]
    for _, name in progress_bar("comparing", len(turns), "turns", things=turns):
        way, some = ways[name]
        began, cpu = time.perf_counter(), time.process_time()
        answers[name] = way(some)
        spent = time.perf_counter() - began, time.process_time() - cpu
        measured[name].append(tuple(len(some) / seconds for seconds in spent))
    ours = np.array([answer.probability for answer in answers[OURS]])
    theirs = np.array(answers[THEIRS], float)
    medians = {
        name: tuple(map(statistics.median, zip(*runs, strict=True)))
        for name, runs in measured.items()
    }
    unread = int(np.isnan(theirs).sum())
    return Speeds(medians, float(np.nanmax(np.abs(ours - theirs))), unread)


def speed_table(found: Speeds) -> str:
    """Markdown of what `speed` found."""
    lines = ["| | comparisons a second | a second of CPU |", "|---|---|---|"]
    lines += [f"| {name} | {wall:.1f} | {cpu:.1f} |" for name, (wall, cpu) in found.ways.items()]
    wall, cpu = (a / b for a, b in zip(found.ways[OURS], found.ways[THEIRS], strict=True))
    lines += [
        "",
        f"Batch against batch ours is {wall:.1f} times as fast, by CPU {cpu:.1f} times. "
        f"The probabilities of the two differ by at most {found.difference:.0e}"
        f"{f', but for {found.unread} where transformers gave no answer' * bool(found.unread)}.",
    ]
    return "\n".join(lines)


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


def swaps(model: RewardModel, pairs: int) -> int:
    """How many of some pairs answer otherwise than exactly when their images are exchanged."""
    rows = scene_rows(pairs)
    swapped = [row | {"first": row["second"], "second": row["first"]} for row in rows]
    both = zip(model.compare_many(rows), model.compare_many(swapped), strict=True)
    bar = progress_bar("swapping", pairs, "pairs", things=both)
    return sum(one.probability != 1 - other.probability for one, other in bar)


def swaps_sentence(pairs: int, inexact: int) -> str:
    """What `swaps` found."""
    sums = "do not add up to exactly 1"
    return f"Of {pairs:,} random pairs, asked again with their images exchanged, {inexact} {sums}."


# ---------------------------------------------------------------------------- ranks


@dataclasses.dataclass(frozen=True)
class Taus:
    """What `ranks` found of one set of groups.

    Attributes:
      groups: that were ranked.
      cycles: of these, that hold a cycle of preferences.
      means: Kendall's tau, by the number of anchors; the mean over the groups where it is defined.
    """

    groups: int
    cycles: int
    means: Mapping[int, float]


def ranks(model: RewardModel, groups: int, gallery: str | None) -> dict[str, Taus]:
    """Sparse rankings against those by all pairs, of scenes and of real images."""
    sets = {"scenes": list(scene_groups(groups, GROUP, seed=1, objects=3))}
    if gallery:
        sets["the gallery"] = gallery_groups(Path(gallery), groups)
    return {name: _taus(model, name, found) for name, found in sets.items()}


def gallery_groups(folder: Path, count: int) -> list[tuple[str, list[bytes]]]:
    """Captions with `GROUP` images each, of a folder in HPDv2's layout."""
    records = json.loads((folder / "test.json").read_bytes())[:count]
    return [
        (x["prompt"], [(folder / "images" / name).read_bytes() for name in x["image_path"][:GROUP]])
        for x in records
    ]


def _taus(model: RewardModel, title: str, groups: Sequence[tuple[str, Sequence]]) -> Taus:
    from scipy.stats import kendalltau

    rows = [{"caption": caption, "images": images} for caption, images in groups]
    bar = progress_bar(f"ranking {title}", (1 + len(ANCHORS)) * len(rows), "rankings")

    def ranked(**options) -> list[Ranking]:
        found = []
        for ranking in model.rank_many(rows, **options):
            found.append(ranking)
            bar.update()
        return found

    with bar:
        whole, means = ranked(), {}
        for k in ANCHORS:
            sparse = ranked(method="anchors", anchors=k)
            pairs = zip(whole, sparse, strict=True)
            means[k] = float(np.nanmean([kendalltau(a.scores, b.scores)[0] for a, b in pairs]))
    return Taus(len(rows), sum(bool(x.cycles) for x in whole), means)


def ranks_table(found: Mapping[str, Taus]) -> str:
    """Markdown of what `ranks` found."""
    titles = [
        f"groups of {GROUP} images of",
        "groups",
        "with a cycle",
        *(f"tau, k = {k}" for k in ANCHORS),
    ]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, taus in found.items():
        cells = [name, taus.groups, taus.cycles, *(f"{taus.means[k]:.2f}" for k in ANCHORS)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    commands.run(main, define_flags)
