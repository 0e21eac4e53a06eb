"""A reward for image generators: how an image does against others of its caption."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from lrt_jax.inference.pictures import ImageSource, check_caption
from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.inference.tournament import anchors_met


class PreferenceReward:
    """`reward(images, captions)`: the mean probability, 0 to 1, that an image is preferred.

    Images of one call with equal captions are a group, whose members are compared with one another,
    so that a group's rewards have the mean 0.5 where each meets each. Captions of `references` are
    another matter: their images are compared with the references alone, so that their rewards mean
    the same in each call, and a group may have a single image.

    Args:
      model: that is asked.
      method: `all` compares each image of a group with each; `anchors` with some of them.
      anchors: with how many.
      votes: completions for each order of a pair, see `RewardModel.compare`.
      references: images to compare with, by caption.

    >>> reward = PreferenceReward(model)
    >>> rewards = reward([image, other, image], ["a red circle"] * 3)
    >>> rewards.dtype, rewards.shape, bool(rewards[0] == rewards[2])
    (dtype('float32'), (3,), True)
    >>> reward = PreferenceReward(model, references={"a red circle": [image]})
    >>> reward([image], ["a red circle"]).tolist()
    [0.5]
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        method: Literal["all", "anchors"] = "all",
        anchors: int | None = None,
        votes: int = 1,
        references: Mapping[str, Sequence[ImageSource]] | None = None,
    ):
        self._model, self._votes = model, votes
        anchors_met(method, anchors)
        self._ranked = {"method": method, "anchors": anchors, "votes": votes}
        self._references = dict(references or {})
        if empty := [caption for caption, images in self._references.items() if not len(images)]:
            raise ValueError(f"references: there is no image of {empty[0]!r}; leave it out")

    def __call__(
        self, images: Sequence[ImageSource], captions: Sequence[str]
    ) -> Float[np.ndarray, " N"]:
        """Rewards of images, float32, in their order.

        Args:
          images: `N` of them, as `RewardModel` takes them.
          captions: what each is to show.

        Raises:
          ImageError, PromptTooLong, TypeError: as `RewardModel.compare`.
          ValueError: as many captions as images are needed, two or more images of a caption, or
            references of it.
        """
        if isinstance(captions, str) or len(images) != len(captions):
            given = "a single text" if isinstance(captions, str) else f"{len(captions)}"
            raise ValueError(f"captions: {given}, for {len(images)} images; give one for each")
        groups: dict[str, list[int]] = {}
        for index, caption in enumerate(captions):
            groups.setdefault(check_caption(caption, [images[index]]), []).append(index)
        rewards = np.empty(len(images), np.float32)
        for members, scores in self._scores(images, groups):
            rewards[members] = scores
        return rewards

    def _scores(
        self, images: Sequence[ImageSource], groups: Mapping[str, list[int]]
    ) -> Iterator[tuple[list[int], Sequence[float]]]:
        """Indices of images, and their scores."""
        ranked = {x: members for x, members in groups.items() if x not in self._references}
        if lone := [members[0] for members in ranked.values() if len(members) == 1]:
            raise ValueError(
                f"images[{lone[0]}]: no other image of its caption, so that there is nothing to "
                "compare it with; give more of them, or references"
            )
        named = [{"caption": x, "images": [images[i] for i in ranked[x]]} for x in ranked]
        rankings = self._model.rank_many(named, **self._ranked)
        yield from zip(ranked.values(), (x.scores for x in rankings), strict=True)

        apart = [(x, i) for x in groups if x in self._references for i in groups[x]]
        rows = [
            {"caption": caption, "image": images[i], "anchors": self._references[caption]}
            for caption, i in apart
        ]
        scores = self._model.score_many(rows, votes=self._votes)
        yield from (([i], [found.score]) for (_, i), found in zip(apart, scores, strict=True))
