"""A few drawn scenes in memory, to try the built-in models on."""

from collections.abc import Iterator

import numpy as np

from lrt_jax.data.scenes import world
from lrt_jax.data.scenes.render import paint


def scene_groups(
    count: int, images: int, seed: int = 0, objects: int = 2
) -> Iterator[tuple[str, np.ndarray]]:
    """Captions, each with scenes that show it more or less well, all of different scores.

    Args:
      count: of captions.
      images: scenes of each.
      seed: of what is drawn.
      objects: that each caption asks for, at most 3.

    Raises:
      ValueError: more images than there are scores, 4, 6 or 8 by the number of objects.

    Yields:
      A caption, and its scenes, uint8 [images, height, width, 3].
    """
    rng = np.random.default_rng(seed)
    asked = world.draw_asked(rng, count, objects, False)
    scenes, _ = world.draw_groups(rng, asked, images, False)
    pixels = paint(rng, scenes)
    groups = pixels.reshape(count, images, *pixels.shape[1:])
    yield from zip(map(world.caption, asked), groups, strict=True)
