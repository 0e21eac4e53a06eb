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
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from lrt_jax.config.scenes import OPTIONS, TRACES, TRUTH, ScenesOptions
from lrt_jax.data.scenes.render import paint, to_png
from lrt_jax.data.scenes.traces import Content, contents, without_trace, write_completion
from lrt_jax.data.scenes.world import (
    NUMBERS,
    QUALITIES,
    Scenes,
    caption,
    draw_asked,
    draw_groups,
    is_held_out_caption,
)
from lrt_jax.data.schema import pair_uid
from lrt_jax.storage.disk import new_folder, read_json

logger = logging.getLogger(__name__)

VERSION = 2  # of what is drawn; raise it when the same options give other scenes
BLOCK = 128  # groups drawn at a time
RATINGS = (1, len(NUMBERS))  # least and best of an annotator's rating: a point more than the score


@dataclasses.dataclass(frozen=True)
class _Block:
    """Some groups of a split: images of a group follow one another."""

    asked: np.ndarray  # [n, k, 4]
    scenes: Scenes
    scores: np.ndarray  # [n, i]
    pixels: np.ndarray  # [n i, h, w, 3]


def write_scenes(folder: str | Path, options: ScenesOptions) -> Path:
    """Draws a data set, and logs that, or finds it drawn. It appears whole or not at all.

    Args:
      folder: made where it is missing.
      options: what to draw; equal options give equal files.

    Raises:
      FileExistsError: the folder is there and holds something else.
    """
    folder = Path(folder)
    wanted = {"version": VERSION, **dataclasses.asdict(options)}
    if folder.exists():
        _check_found(folder, wanted)
        return folder
    captions = options.train + options.validation + 2 * options.test
    logger.info(f"drawing scenes for {captions:,} captions")
    with new_folder(folder) as part:
        _Writer(part, options).write()
        (part / OPTIONS).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    return folder


def _check_found(folder: Path, wanted: Mapping[str, Any]) -> None:
    path = folder / OPTIONS
    found = read_json(path) if path.is_file() else None
    if found != wanted:
        has = "no drawn scenes" if found is None else "scenes that were drawn with other options"
        raise FileExistsError(f"{folder}: holds {has}; remove it, or take another folder")


@dataclasses.dataclass(frozen=True)
class _Part:
    """Captions of one kind; a split has one part or more."""

    split: str
    captions: int
    objects: int  # that each caption asks for
    held_out_combinations: bool = False
    held_out_captions: bool = True


class _Writer:
    """Draws part after part into a folder."""

    def __init__(self, folder: Path, options: ScenesOptions):
        self._folder, self._options = folder, options

    def write(self) -> None:
        tables: dict[str, list[dict]] = {}
        with (
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
            (self._folder / TRUTH).open("w", encoding="utf-8") as truth,
            (self._folder / TRACES).open("w", encoding="utf-8") as traces,
        ):
            for part, rng, block in self._blocks():
                rows = tables.setdefault(part.split, [])
                known = contents(block.scenes)
                files = list(pool.map(to_png, block.pixels))
                new = self._rows(rng, part.split, len(rows) // self._options.images, block)
                self._write_images(new, files)
                truth.writelines(map(_truth_line, new, files, known))
                if part.split == "train":
                    traces.writelines(self._traces(rng, new, block.asked, known))
                rows += new
        for split, rows in tables.items():
            file = self._folder / f"metadata-{split.replace('_', '-')}.parquet"
            pq.write_table(pa.Table.from_pylist(rows), file)

    def _blocks(self) -> Iterator[tuple[_Part, np.random.Generator, _Block]]:
        """Every block of every part, with the part's own source of randomness."""
        o = self._options
        three = round(o.train * o.three_objects)
        parts = [
            _Part("train", o.train - three, 2, held_out_captions=False),
            _Part("train", three, 3, held_out_captions=False),
            _Part("validation", o.validation, 2),
            _Part("test_combinations", o.test, 2, held_out_combinations=True),
            _Part("test_objects", o.test, 3),
        ]
        total = sum(part.captions for part in parts)
        with tqdm(total=total, desc="drawing", unit="caption", delay=3, leave=False) as bar:
            for number, part in enumerate(parts):
                rng = np.random.default_rng([o.seed, number])
                for block in _blocks(rng, part, o.images):
                    yield part, rng, block
                    bar.update(len(block.asked))

    def _write_images(self, rows: list[dict], files: list[bytes]) -> None:
        for row, data in zip(rows, files, strict=True):
            path = self._folder / row["image_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def _rows(self, rng, split: str, first: int, block: _Block) -> list[dict]:
        """One record per image, with the fields of ImageRewardDB."""
        from scipy.stats import rankdata  # which takes a second or two to load

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
            group = rows[g * images]["prompt_id"]
            uid = pair_uid("scenes", "train", group, min(i, j), max(i, j))
            first, second = known[g * images + i], known[g * images + j]
            for _ in range(self._options.traces):
                text = write_completion(rng, asked[g], first, second, self._options.corruption)
                if self._options.bare and rng.random() < self._options.bare:
                    text = without_trace(text)
                yield json.dumps({"pair": uid, "swapped": bool(i > j), "completion": text}) + "\n"


def _blocks(rng: np.random.Generator, part: _Part, images: int) -> Iterator[_Block]:
    """The part's groups, no two with the same caption, drawn block by block."""
    seen: set[str] = set()
    while len(seen) < part.captions:
        keep = []
        for thing in draw_asked(rng, BLOCK, part.objects, part.held_out_combinations):
            text = caption(thing)
            fits = is_held_out_caption(text) == part.held_out_captions
            if fits and text not in seen and len(seen) < part.captions:
                seen.add(text)
                keep.append(thing)
        if keep:
            asked = np.stack(keep)
            scenes, scores = draw_groups(rng, asked, images, part.held_out_combinations)
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
