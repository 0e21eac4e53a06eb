"""Rewards of images for the training of image generators: how each does in its group."""

import asyncio
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from PIL import Image

from lrt_jax.data.images import ImageError
from lrt_jax.inference.pictures import ImageSource, open_picture
from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.serving.limits import Refused
from lrt_jax.serving.service import Service

LONE = "a lone image of its text; start the server with --anchors, or send several"


@dataclasses.dataclass(frozen=True)
class Reward:
    """Of an image.

    Attributes:
      value: 0..1, its mean probability to be preferred to another; NaN where there is none.
      reason: why there is none.
    """

    value: float
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Groups:
    """How images are rewarded.

    Attributes:
      anchors: images that a lone one is compared with; none if it gets no reward.
      opponents: images of a group that all others meet, where it has more than one more.
    """

    anchors: Sequence[ImageSource] = ()
    opponents: int = 8

    async def rewards(
        self, service: Service, captions: Sequence[str], images: Mapping[int, str]
    ) -> list[Reward]:
        """Rewards in the order of captions; those with equal captions are a group.

        An image that cannot be used, and a group that cannot be compared, get none; the others do.

        Args:
          service: that is asked.
          captions: one for each image.
          images: base64 of each, by its index; one that is not there cannot be used.
        """
        texts = [images.get(index) for index in range(len(captions))]
        opened = await asyncio.gather(
            *(service.ask(functools.partial(_opened, service, x, i)) for i, x in enumerate(texts))
        )
        found = [x if isinstance(x, Reward) else None for x in opened]
        groups: dict[str, list[int]] = {}
        for index, caption in enumerate(captions):
            if found[index] is None:
                groups.setdefault(caption, []).append(index)
        asked = [
            functools.partial(self._group, service, caption, [opened[i] for i in indices])
            for caption, indices in groups.items()
        ]
        for indices, rewards in zip(
            groups.values(), await asyncio.gather(*map(service.ask, asked)), strict=True
        ):
            for index, reward in zip(indices, rewards, strict=True):
                found[index] = reward
        return found

    def _group(
        self, service: Service, caption: str, images: Sequence[Image.Image], model: RewardModel
    ) -> list[Reward]:
        votes = service.limits.votes[0]
        try:
            service.limits.check_caption(caption)
            return [Reward(x) for x in self._win_shares(caption, images, votes, model)]
        except (Refused, ValueError) as error:
            return [_failed(error)] * len(images)

    def _win_shares(
        self, caption: str, images: Sequence[Image.Image], votes: int, model: RewardModel
    ) -> Sequence[float]:
        if len(images) > 1:
            sparse = {"method": "anchors", "anchors": self.opponents}
            options = sparse if len(images) > self.opponents + 1 else {}
            return model.rank(caption=caption, images=images, votes=votes, **options).scores
        if not self.anchors:
            raise Refused(422, LONE)
        anchors = self.anchors
        return [model.score(caption=caption, image=images[0], anchors=anchors, votes=votes).score]


def _opened(
    service: Service, text: str | None, index: int, model: RewardModel
) -> Image.Image | Reward:
    """An image, or why it gets no reward."""
    role = f"image {index}"
    try:
        if text is None:
            raise Refused(422, f"{role}: there is none")
        return open_picture(service.limits.image_file(text, role), role).pixels
    except (Refused, ImageError) as error:
        return _failed(error)


def _failed(error: Exception) -> Reward:
    return Reward(math.nan, str(error))
