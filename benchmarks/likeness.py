"""How well copies of pictures are told from other pictures, and rewritten captions from others.

  python -m benchmarks.likeness --images=FOLDER --captions=FILE

`FOLDER` holds pictures, of which no two are the same; `FILE` is a JSON list of records with a
`prompt`. Prints the tables of docs/preparing.md.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image
from tqdm import tqdm

from lrt_jax.cli import commands
from lrt_jax.data.captions import normalise
from lrt_jax.data.images import decode, perceptual_hash
from lrt_jax.data.preparation.near_duplicates import (
    LEAK,
    SAME,
    TAKEN,
    near_captions,
    same_pictures,
    taken_pictures,
    thumbnail,
)

WORDS = 4  # captions of fewer are not rewritten: little is left of them


def encoded(image: np.ndarray, kind: str, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, quality=quality)
    return decode(file.getvalue(), kind)


def resized(image: np.ndarray, across: float, down: float | None = None) -> np.ndarray:
    size = int(image.shape[1] * across), int(image.shape[0] * (down or across))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def cropped(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A window whose sides are shorter by a share, anywhere in the image."""
    sides = [int(side * (1 - share)) for side in image.shape[:2]]
    top, left = (
        rng.integers(0, whole - side + 1)
        for whole, side in zip(image.shape[:2], sides, strict=True)
    )
    return np.ascontiguousarray(image[top : top + sides[0], left : left + sides[1]])


def plain_pictures() -> dict[str, np.ndarray]:
    """Pictures with little in them, no two alike: each shape in each pair of colours."""
    y, x = np.mgrid[:256, :384] / np.array([256, 384]).reshape(2, 1, 1)
    shapes = {  # share of the second colour
        "one colour": 0 * x,
        "three bands": abs(x - 0.5) < 1 / 6,
        "upper half": y < 0.5,
        "stripes down": x * 4 % 1 < 0.5,
        "stripes across": y * 4 % 1 < 0.5,
        "checks": (x * 3 % 1 < 0.5) ^ (y * 3 % 1 < 0.5),
        "cross": (abs(x - 0.35) < 0.06) | (abs(y - 0.5) < 0.09),
        "disc": np.hypot(1.5 * (x - 0.3), y - 0.6) < 0.3,
        "square": (abs(x - 0.7) < 0.2) & (abs(y - 0.4) < 0.3),
        "triangle": 2 * abs(x - 0.5) < y - 0.2,
        "gradient across": x,
        "gradient down": y,
        "gradient aslant": (x + y) / 2,
        "gradient outward": np.hypot(x - 0.5, y - 0.5),
    }
    colours = {
        "red and white": ((204, 20, 30), (255, 255, 255)),
        "blue and yellow": ((0, 60, 180), (255, 210, 0)),
        "black and gray": ((0, 0, 0), (128, 128, 128)),
        "two grays": ((150, 150, 150), (170, 170, 170)),
    }
    return {
        f"{shape}, {name}": (np.float64(share)[..., None] * np.subtract(*two[::-1]) + two[0])
        .round()
        .astype(np.uint8)
        for shape, share in shapes.items()
        for name, two in colours.items()
    }


COPIES: dict[str, Callable] = {
    "JPEG, quality 90": lambda image, _: encoded(image, "JPEG", 90),
    "JPEG, quality 50": lambda image, _: encoded(image, "JPEG", 50),
    "JPEG, quality 20": lambda image, _: encoded(image, "JPEG", 20),
    "WebP, quality 75": lambda image, _: encoded(image, "WEBP", 75),
    "resized to 1/4": lambda image, _: resized(image, 0.25),
    "resized to 1/2": lambda image, _: resized(image, 0.5),
    "resized to 3/4": lambda image, _: resized(image, 0.75),
    "resized to 2": lambda image, _: resized(image, 2),
    "squeezed to 4/5": lambda image, _: resized(image, 1, 0.8),
    "resized to 1/4, JPEG 40": lambda image, _: encoded(resized(image, 0.25), "JPEG", 40),
    "sides cropped by 2 %": lambda image, rng: cropped(image, 0.02, rng),
    "sides cropped by 5 %": lambda image, rng: cropped(image, 0.05, rng),
    "sides cropped by 10 %": lambda image, rng: cropped(image, 0.10, rng),
    "sides cropped by 20 %": lambda image, rng: cropped(image, 0.20, rng),
}
REWRITES: dict[str, Callable] = {
    "capitals, no punctuation": lambda words, _: [word.upper() for word in words],
    "a letter wrong": lambda words, rng: _changed(words, rng, lambda word: [word[:-1] + "x"]),
    "a word less": lambda words, rng: _changed(words, rng, lambda _: []),
    "words in another order": lambda words, rng: rng.permutation(words),
    "a style added": lambda words, _: [*words, "highly", "detailed"],
    "a third cut off": lambda words, _: words[: max(3, len(words) * 2 // 3)],
}


def _changed(words: list[str], rng: np.random.Generator, change: Callable) -> list[str]:
    place = int(rng.integers(len(words)))
    return [*words[:place], *change(words[place]), *words[place + 1 :]]


def looks(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and thumbnails."""
    hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
    return hashes, np.stack([thumbnail(image) for image in images])


def read_pictures(folder: Path) -> list[np.ndarray]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [decode(path.read_bytes(), path.name) for path in tqdm(files, "decoding")]


def compare_pictures(images: list[np.ndarray]) -> None:
    """Copies that are found, and different pictures that are taken for one."""
    hashes, thumbs = looks(images)
    rng, count = np.random.default_rng(0), len(images)

    def one(i: int) -> tuple[np.ndarray, np.ndarray]:
        return hashes[i, None], thumbs[i, None]

    print("| copy | taken for the same | kept out of training |\n|---|---|---|")
    for name, copy in COPIES.items():
        copies = [copy(image, rng) for image in images]
        theirs = looks(copies)
        both = (np.concatenate(parts) for parts in zip((hashes, thumbs), theirs, strict=True))
        same = (same_pictures(*both)[count:] == np.arange(count)).mean()
        taken = [
            taken_pictures(*one(i), theirs[0][i, None], theirs[1][i, None]) for i in range(count)
        ]
        print(f"| {name} | {100 * same:.1f} % | {100 * np.mean(taken):.1f} % |")
    same = count - len(np.unique(same_pictures(hashes, thumbs)))
    taken = sum(
        int(taken_pictures(hashes[i + 1 :], thumbs[i + 1 :], *one(i)).sum())
        for i in range(count - 1)
    )
    pairs = count * (count - 1) // 2
    print(f"| another picture ({pairs:,} pairs) | {same} | {taken} |")
    print(f"limits: {SAME} and {TAKEN} (bits of the hash, mean difference of thumbnails)\n")


def compare_captions(file: Path) -> None:
    """Rewritten captions that are found, and different ones that are near one another."""
    texts = dict.fromkeys(normalise(record["prompt"]) for record in json.loads(file.read_text()))
    long = [text for text in texts if len(text.split()) >= WORDS]
    rng = np.random.default_rng(0)
    print(f"| caption, of at least {WORDS} words | near |\n|---|---|")
    for name, rewrite in REWRITES.items():
        mine = [normalise(" ".join(rewrite(text.split(), rng))) for text in long]
        print(f"| {name} | {100 * len(near_captions(mine, long)) / len(long):.1f} % |")
    one, other = long[::2], long[1::2]
    near = 100 * len(near_captions(one, other)) / len(one)
    print(f"| another of {len(other)} captions of the same set | {near:.1f} % |")
    print(f"limit: cosine {LEAK}")


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "images", "Folder of pictures, no two the same.")
    commands.define_text(values, "captions", "JSON list of records with a prompt.")


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    compare_pictures(read_pictures(Path(values.images)))
    compare_pictures(list(plain_pictures().values()))
    compare_captions(Path(values.captions))


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
