"""A caption and two images, encoded for the models: what is read in both orders."""

import dataclasses
import hashlib
from collections.abc import Sequence

from lrt_jax.data.images import sides
from lrt_jax.data.input.patches import EncodedImage, ImagePolicy, encode_image, shown_grids
from lrt_jax.data.input.prompts import PromptEncoder, PromptTooLong
from lrt_jax.data.schema import Prompt
from lrt_jax.inference.pictures import Picture
from lrt_jax.models.inputs import Grid

WIDENED = 4  # times the prompts of the training may be as long, unless somebody says otherwise
SEEDS = 1 << 30


class CaptionTooLong(PromptTooLong):
    """A caption makes a prompt longer than those that are read."""

    def __str__(self) -> str:
        return (
            f"caption: its prompt has {self.length:,} tokens, images included, and at most "
            f"{self.bucket:,} are read (max_prompt_tokens)"
        )


@dataclasses.dataclass(frozen=True)
class ShownImage:
    """A picture as the models are shown it."""

    digest: bytes  # of the picture
    grid: Grid  # in which it is shown
    encoded: EncodedImage  # its patches

    @property
    def key(self) -> tuple[bytes, Grid]:
        """Equal for images that are encoded alike."""
        return self.digest, self.grid


@dataclasses.dataclass(frozen=True)
class Request:
    """Two images to compare.

    Attributes:
      images: the first and the second, as they were given.
      prompts: of each order, as given and swapped: that of the reasoner, and that of the listener
        if it reads an instruction of its own. Padded to buckets.
      votes: completions for each order; with 1 it is greedy.
      seed: of sampling, from 0 to 2**30; follows from the caption and from which images are
        compared, in whatever order.
    """

    images: tuple[ShownImage, ShownImage]
    prompts: tuple[tuple[Prompt, ...], tuple[Prompt, ...]]
    votes: int
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Requests of equal shape can share a batch."""
        return self.votes, *(prompt.tokens.shape[-1] for prompt in self.prompts[0])


@dataclasses.dataclass(frozen=True)
class RequestEncoder:
    """Turns captions and pictures into requests. Threads may share it."""

    policy: ImagePolicy  # how images are brought to size
    # of the reasoner, and of a listener with an instruction of its own; their buckets are the
    # shortest
    prompts: tuple[PromptEncoder, ...]
    longest: int  # tokens of a prompt, images included
    criterion: str = "overall"  # what the images are judged by

    def show(self, pictures: Sequence[Picture]) -> list[ShownImage]:
        """Pictures that are to be compared with one another.

        Where the model was trained to see pairs in one grid, all of them get that of an image of
        their geometric mean height and width.

        Raises:
          ImageError: a picture is far too long.
        """
        vision = self.prompts[0].config.vision
        grids = shown_grids([sides(x.pixels) for x in pictures], self.policy, vision)
        return [
            ShownImage(
                picture.digest,
                grid,
                encode_image(picture.pixels, grid, self.policy, vision, picture.name),
            )
            for picture, grid in zip(pictures, grids, strict=True)
        ]

    def encode(self, caption: str, first: ShownImage, second: ShownImage, votes: int) -> Request:
        """A request to compare two images.

        Raises:
          CaptionTooLong: the caption is.
        """
        orders = (first.grid, second.grid), (second.grid, first.grid)
        prompts = [self._prompts(caption, orders[0])]
        prompts += prompts if orders[0] == orders[1] else [self._prompts(caption, orders[1])]
        return Request((first, second), tuple(prompts), votes, _seed(caption, first, second))

    def _prompts(self, caption: str, grids: Sequence[Grid]) -> tuple[Prompt, ...]:
        return tuple(self._prompt(encoder, caption, grids) for encoder in self.prompts)

    def _prompt(self, encoder: PromptEncoder, caption: str, grids: Sequence[Grid]) -> Prompt:
        """In the shortest bucket that holds it."""
        try:
            return encoder.encode(caption, grids, self.criterion)
        except PromptTooLong as error:
            bucket = bucket_of(error.length, max(self.longest, encoder.bucket))
        wider = dataclasses.replace(encoder, bucket=bucket)
        return wider.encode(caption, grids, self.criterion)


def bucket_of(length: int, longest: int) -> int:
    """The least of 64, 96, 128, 192, 256, ... that is not below a number of tokens.

    Raises:
      CaptionTooLong: there are more than the longest has.
    """
    if length > longest:
        raise CaptionTooLong(length, longest)
    bucket = 64
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket


def _seed(caption: str, first: ShownImage, second: ShownImage) -> int:
    digest = hashlib.sha256(b"".join(sorted((first.digest, second.digest))) + caption.encode())
    return int.from_bytes(digest.digest()[:4], "big") % SEEDS
