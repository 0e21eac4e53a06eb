"""Scenes on disk in ImageRewardDB's layout, with ground truth and traces beside it.

```
FOLDER/
  metadata-SPLIT.parquet   one record per image: image_path, prompt_id, prompt, rank, ratings
  images/SPLIT/*.png
  truth.jsonl              what is in each image; evaluations alone read it
  traces.jsonl             completions to imitate, of the training split
  scenes.json              the options; written last
```
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import rankdata
from tqdm import tqdm

from lrt_jax.data.scenes.options import OPTIONS, TRACES, TRUTH, ScenesOptions
from lrt_jax.data.scenes.paint import paint, to_png
from lrt_jax.data.scenes.traces import Content, contents, write_completion
from lrt_jax.data.scenes.world import (
    QUALITIES,
    Scenes,
    caption,
    draw_asked,
    draw_groups,
    is_held_out_caption,
)

VERSION = 1  # of what is drawn; raise it when the same options give other scenes
BLOCK = 128  # groups drawn at a time
RATINGS = (1, 7)  # least and best of an annotator's rating


@dataclasses.dataclass(frozen=True)
class _Block:
    """Some groups of a split: images of a group follow one another."""

    asked: np.ndarray  # [n, k, 4]
    scenes: Scenes
    scores: np.ndarray  # [n, i]
    pixels: np.ndarray  # [n i, h, w, 3]


def write_scenes(
    folder: str | Path, options: ScenesOptions, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Draws a data set, or finds it already drawn. It appears whole or not at all.

    Args:
      folder: made where it is missing.
      options: what to draw; equal options give equal files.
      say: told, in a line, what is drawn.

    Raises:
      FileExistsError: the folder is there and holds something else.
    """
    folder = Path(folder)
    wanted = {"version": VERSION, **dataclasses.asdict(options)}
    if folder.exists():
        _check_found(folder, wanted)
        return folder
    say(f"drawing scenes for {options.train + options.validation + 2 * options.test:,} captions")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        partial.chmod(0o755)  # mkdtemp lets nobody else read
        _Writer(partial, options).write()
        (partial / OPTIONS).write_text(json.dumps(wanted, indent=2) + "\n")
        partial.rename(folder)
    except BaseException:  # also when interrupted
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def _check_found(folder: Path, wanted: Mapping[str, Any]) -> None:
    path = folder / OPTIONS
    found = json.loads(path.read_text()) if path.is_file() else None
    if found != wanted:
        has = "no drawn scenes" if found is None else "scenes that were drawn with other options"
        raise FileExistsError(f"{folder}: holds {has}; remove it, or take another folder")


class _Writer:
    """Draws split after split into a folder."""

    def __init__(self, folder: Path, options: ScenesOptions):
        self._folder, self._options = folder, options

    def write(self) -> None:
        o = self._options
        three = round(o.train * o.three_objects)
        plan = [
            # split, captions, objects of each, held-out combinations, held-out captions
            ("train", o.train - three, 2, False, False),
            ("train", three, 3, False, False),
            ("validation", o.validation, 2, False, True),
            ("test_combinations", o.test, 2, True, True),
            ("test_objects", o.test, 3, False, True),
        ]
        rows: dict[str, list[dict]] = {split: [] for split, *_ in plan}
        with (
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
            tqdm(total=sum(n for _, n, *_ in plan), desc="drawing", unit="caption", delay=3) as bar,
            (self._folder / TRUTH).open("w") as truth,
            (self._folder / TRACES).open("w") as traces,
        ):
            for part, (split, count, *how) in enumerate(plan):
                rng = np.random.default_rng([o.seed, part])
                (self._folder / "images" / split).mkdir(parents=True, exist_ok=True)
                for block in _blocks(rng, count, o.images, *how):
                    known = contents(block.scenes)
                    files = list(pool.map(to_png, block.pixels))
                    new = self._rows(rng, split, len(rows[split]) // o.images, block)
                    for row, data in zip(new, files, strict=True):
                        (self._folder / row["image_path"]).write_bytes(data)
                    truth.writelines(map(_truth_line, new, files, known))
                    if split == "train":
                        traces.writelines(self._traces(rng, new, block.asked, known))
                    rows[split] += new
                    bar.update(len(block.asked))
        for split, records in rows.items():
            file = self._folder / f"metadata-{split.replace('_', '-')}.parquet"
            if records:
                pq.write_table(pa.Table.from_pylist(records), file)

    def _rows(self, rng, split: str, first: int, block: _Block) -> list[dict]:
        """One record per image, with the fields of ImageRewardDB."""
        ratings = _rate(rng, block.scores, self._options)
        ranks = rankdata(-ratings, method="dense", axis=1)
        return [
            {
                "image_path": f"images/{split}/{first + g:06}-{i}.png",
                "prompt_id": f"{first + g:06}",
                "prompt": caption(asked),
                "image_amount_in_total": len(ranks[g]),
                "rank": int(ranks[g, i]),
                "overall_rating": float(ratings[g, i]),
            }
            for g, asked in enumerate(block.asked)
            for i in range(len(ranks[g]))
        ]

    def _traces(self, rng, rows: list[dict], asked, known: list[Content]) -> Iterator[str]:
        """Lines of completions for every pair of images of a caption, in both orders."""
        images = self._options.images
        for g, i, j in np.ndindex(len(asked), images, images):
            if i == j:
                continue
            pair = f"{min(i, j)}-{max(i, j)}"
            uid = f"scenes/train/{rows[g * images]['prompt_id']}/{pair}"
            first, second = known[g * images + i], known[g * images + j]
            for _ in range(self._options.traces):
                text = write_completion(rng, asked[g], first, second, self._options.corruption)
                yield json.dumps({"pair": uid, "swapped": bool(i > j), "completion": text}) + "\n"


def _blocks(
    rng: np.random.Generator,
    count: int,
    images: int,
    k: int,
    held_out_combinations: bool,
    held_out_captions: bool,
) -> Iterator[_Block]:
    """`count` groups, no two with the same caption, drawn block by block."""
    seen: set[str] = set()
    while len(seen) < count:
        asked = draw_asked(rng, BLOCK, k, held_out_combinations)
        keep = []
        for thing in asked:
            text = caption(thing)
            new = text not in seen and is_held_out_caption(text) == held_out_captions
            if new and len(seen) < count:
                seen.add(text)
                keep.append(thing)
        if keep:
            asked = np.stack(keep)
            scenes, scores = draw_groups(rng, asked, images, held_out_combinations)
            yield _Block(asked, scenes, scores, paint(rng, scenes))


def _rate(rng: np.random.Generator, scores: np.ndarray, options: ScenesOptions) -> np.ndarray:
    """[n, i] mean rating of several annotators, who see the score with noise and give points."""
    noise = rng.normal(0, options.rating_noise, (options.annotators, *scores.shape))
    return np.clip(np.rint(RATINGS[0] + scores + noise), *RATINGS).mean(axis=0)


def _truth_line(row: Mapping[str, Any], data: bytes, content: Content) -> str:
    fields = {
        "key": hashlib.sha256(data).hexdigest(),
        "image": row["image_path"],
        "objects": content.names,
        "quality": QUALITIES[content.quality],
    }
    return json.dumps(fields) + "\n"
