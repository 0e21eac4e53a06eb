"""What a call may ask at most, and how it is told that it asked for more."""

import base64
import binascii
import dataclasses
import re

from lrt_jax.data.images import file_sides

DATA_URL = re.compile(r"data:[\w/+.-]*;base64,")


class Refused(Exception):
    """A call that is not answered.

    Attributes:
      status: of HTTP.
      reason: what is wrong with it, and what to do.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is above them is refused, each with a status of its own.

    Attributes:
      body: bytes of a call, as it is sent: 413.
      pixels: of an image: 422, as of all else that is wrong with one.
      images: of a call: 400.
      calls: that are answered, or wait to be, at the same time: 503.
      votes: numbers of completions that a call may ask for, each compiled before the first: 422.
        The first is for calls that ask for none.
      caption: characters of a caption: 422.
    """

    body: int = 64 * 2**20
    pixels: int = 2**24
    images: int = 64
    calls: int = 512
    votes: tuple[int, ...] = (1,)
    caption: int = 4096

    def check_images(self, count: int) -> None:
        """Raises Refused for a call with too many."""
        if count > self.images:
            raise Refused(400, f"{count} images in a call; at most {self.images} (--max_images)")

    def check_caption(self, caption: str) -> str:
        """The caption; raises Refused for one that is too long."""
        if len(caption) > self.caption:
            most = f"at most {self.caption} (--max_caption)"
            raise Refused(422, f"a caption of {len(caption)} characters; {most}")
        return caption

    def check_votes(self, votes: int | None) -> int:
        """The number that a call asks for; raises Refused for one that is not compiled."""
        if votes is None:
            return self.votes[0]
        if votes not in self.votes:
            served = ", ".join(map(str, self.votes))
            raise Refused(422, f"votes: {votes} is not served, but {served} (--votes)")
        return votes

    def image_file(self, text: str, role: str) -> bytes:
        """An image file, of its base64.

        Args:
          text: base64, which may be the rest of a `data:` URL.
          role: where it stands in the call, for errors.

        Raises:
          Refused: it is no base64, or the file says that it has too many pixels.
          ImageError: it is no image.
        """
        start = DATA_URL.match(text)
        try:
            data = base64.b64decode(text[start.end() if start else 0 :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused(422, f"{role}: no base64 of an image file ({error})") from error
        height, width = file_sides(data, role)
        if width * height > self.pixels:
            most = f"at most {self.pixels} (--max_pixels); send a smaller copy"
            raise Refused(422, f"{role}: {width}x{height} pixels; {most}")
        return data
