"""What scenes are made of, what captions ask for, and how far an image gives it. All in NumPy.

A scene is up to three objects on a 3x3 grid, one in a row, and how well the picture came out. A
caption asks for them from top to bottom, by size, colour, shape and column. An object is worth
2 points if all four attributes are as asked of its row, 1 if all but one are, else none; a sharp
picture is worth 1 more. The score of a scene is their sum.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("left", "middle", "right")
ATTRIBUTES = (SIZES, COLOURS, SHAPES, PLACES)  # the order in which they are said
SIZE, COLOUR, SHAPE, PLACE = range(4)
MARKS = ("no", "near", "yes")  # by the points that an object is worth
QUALITIES = ("sharp", "blurry", "noisy", "dark")
SHARP = 0
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")

# Colours of shapes that are met in the split for held-out combinations alone.
HELD_OUT = ((0, 1), (1, 3), (2, 0), (3, 2), (5, 0))  # (colour, shape)
# Captions are held out by their text, whatever the seed, so that a model that was trained on one
# draw has not met the evaluation captions of another.
HELD_OUT_CAPTIONS = 5  # one in so many

KEPT = 0.4  # objects drawn as asked; the others come out wrong, and a few are left out
ONE_WRONG, LEFT_OUT = 0.42, 0.06
COUNTED = 0.15  # captions that ask for two equal objects
SHARP_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Scenes:
    """The content of `n` images."""

    # Index of each attribute, see `ATTRIBUTES`, from the top row down.
    objects: Int[np.ndarray, "n k 4"]
    there: Bool[np.ndarray, "n k"]  # whether the object was drawn at all
    quality: Int[np.ndarray, " n"]  # index of `QUALITIES`

    def __len__(self) -> int:
        return len(self.quality)

    def __getitem__(self, index) -> "Scenes":
        return Scenes(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def __setitem__(self, index, other: "Scenes") -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)


def is_held_out(objects: Int[np.ndarray, "*s 4"]) -> Bool[np.ndarray, "*s"]:
    """Whether an object has one of the held-out combinations of colour and shape."""
    table = np.zeros((len(COLOURS), len(SHAPES)), bool)
    table[tuple(np.transpose(HELD_OUT))] = True
    return table[objects[..., COLOUR], objects[..., SHAPE]]


# ---------------------------------------------------------------------------- captions


def phrase(thing: Sequence[int], number: int = 1) -> str:
    """An object as a caption asks for it."""
    size, colour, shape, place = (names[i] for names, i in zip(ATTRIBUTES, thing, strict=True))
    ending = "" if number == 1 else "es" if shape.endswith("s") else "s"
    said = f"{'a' if number == 1 else NUMBERS[number]} {size} {colour} {shape}{ending}"
    return f"{said} {'in' if place == 'middle' else 'on'} the {place}"


def caption(objects: Int[np.ndarray, "k 4"]) -> str:
    """The caption that asks for these objects from top to bottom; equal neighbours are counted."""
    runs = itertools.groupby(map(tuple, objects.tolist()))
    return " above ".join(phrase(thing, len(list(run))) for thing, run in runs)


def is_held_out_caption(text: str) -> bool:
    """Whether a caption belongs to the evaluation, in every draw."""
    return zlib.crc32(text.encode()) % HELD_OUT_CAPTIONS == 0


def draw_asked(
    rng: np.random.Generator, n: int, k: int, held_out_combinations: bool
) -> Int[np.ndarray, "n k 4"]:
    """Objects that captions ask for.

    Args:
      rng: source of randomness.
      n: captions.
      k: objects of each.
      held_out_combinations: whether the first object of each has a held-out combination; without
        it none has.
    """
    objects = _draw_objects(rng, (n, k))
    while (bad := is_held_out(objects)).any():
        objects[bad] = _draw_objects(rng, (int(bad.sum()),))
    if held_out_combinations:
        objects[:, 0, [COLOUR, SHAPE]] = np.array(HELD_OUT)[rng.integers(len(HELD_OUT), size=n)]
    counted = rng.random(n) < COUNTED
    objects[counted, 1] = objects[counted, 0]
    return objects


def _draw_objects(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([rng.integers(len(names), size=shape) for names in ATTRIBUTES], axis=-1)


# ---------------------------------------------------------------------------- images


def draw_scenes(
    rng: np.random.Generator, asked: Int[np.ndarray, "n k 4"], held_out_combinations: bool
) -> Scenes:
    """One attempt of a painter at each of `n` captions, better or worse.

    Args:
      rng: source of randomness.
      asked: what the captions ask for.
      held_out_combinations: whether what comes out wrong may have a held-out combination.
    """
    n, k, _ = asked.shape
    fate = rng.random((n, k))
    wrong = np.where(fate < KEPT, 0, np.where(fate < KEPT + ONE_WRONG, 1, 2))
    objects = _with_wrong(rng, asked, wrong)
    while not held_out_combinations and (bad := is_held_out(objects)).any():
        objects[bad] = _with_wrong(rng, asked[bad], wrong[bad])
    quality = np.where(rng.random(n) < SHARP_SHARE, SHARP, rng.integers(1, len(QUALITIES), size=n))
    return Scenes(objects=objects, there=fate < 1 - LEFT_OUT, quality=quality)


def _with_wrong(rng: np.random.Generator, objects: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Copies in which `wrong` attributes of each object, chosen at random, have other values."""
    order = rng.permuted(np.broadcast_to(np.arange(4), objects.shape), axis=-1)
    changed = order < wrong[..., None]
    counts = np.array([len(names) for names in ATTRIBUTES])
    step = 1 + (rng.random(objects.shape) * (counts - 1)).astype(int)
    return np.where(changed, (objects + step) % counts, objects)


def marks(
    asked: Int[np.ndarray, "*s 4"], objects: Int[np.ndarray, "*s 4"]
) -> Int[np.ndarray, "*s"]:
    """Points of each object by what is asked of its row; also index of `MARKS`."""
    return np.maximum((objects == asked).sum(-1) - 2, 0)


def scores(asked: Int[np.ndarray, "n k 4"], scenes: Scenes) -> Int[np.ndarray, " n"]:
    """How far each scene satisfies its caption."""
    matched = (marks(asked, scenes.objects) * scenes.there).sum(-1)
    return matched + (scenes.quality == SHARP)


def draw_groups(
    rng: np.random.Generator,
    asked: Int[np.ndarray, "n k 4"],
    images: int,
    held_out_combinations: bool,
) -> tuple[Scenes, Int[np.ndarray, "n i"]]:
    """`images` scenes for each caption, all of different scores.

    Returns:
      n x i scenes, those of a caption following one another, and their scores.

    Raises:
      ValueError: there are fewer scores than images.
    """
    different = asked.shape[1] * (len(MARKS) - 1) + 2  # from nothing right to all right and sharp
    if images > different:
        raise ValueError(f"{images} images: scenes of such captions have {different} scores")
    tries = 8 * images
    many = np.repeat(asked, tries, axis=0)
    scenes = draw_scenes(rng, many, held_out_combinations)
    got = scores(many, scenes).reshape(-1, tries)
    while (poor := [len(set(row)) < images for row in got.tolist()]) and any(poor):
        again = np.repeat(poor, tries)
        scenes[again] = draw_scenes(rng, many[again], held_out_combinations)
        got = scores(many, scenes).reshape(-1, tries)
    chosen = np.stack([_all_different(rng, row, images) for row in got])
    flat = (np.arange(len(asked))[:, None] * tries + chosen).ravel()
    return scenes[flat], np.take_along_axis(got, chosen, axis=1)


def _all_different(rng: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` different values, in random order."""
    _, first = np.unique(values, return_index=True)
    return rng.permutation(first)[:count]
