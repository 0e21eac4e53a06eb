"""Image files as Pillow writes none: of any number of bits, and with a transparent colour."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def tiff(levels: Int[np.ndarray, "H W"], bits: int, white_is_zero: bool = False) -> bytes:
    """A gray image."""
    height, width = levels.shape
    body = levels.astype("<u2").tobytes() if bits == 16 else _packed(levels, bits)
    photometric = 0 if white_is_zero else 1
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return head + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(levels: Int[np.ndarray, "H W *C"], bits: int, transparent: Sequence[int]) -> bytes:
    """A gray or RGB image of which one colour is transparent."""
    height, width = levels.shape[:2]
    head = struct.pack(">2I5B", width, height, bits, 0 if levels.ndim == 2 else 2, 0, 0, 0)
    rows = np.frombuffer(_packed(levels, bits), np.uint8).reshape(height, -1)
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # by no filter
    chunks = {b"IHDR": head, b"tRNS": struct.pack(f">{len(transparent)}H", *transparent)}
    chunks |= {b"IDAT": pixels, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks.items())


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _packed(levels: Int[np.ndarray, "H ..."], bits: int) -> bytes:
    """Numbers one after the other, highest bit first; every row begins with a byte."""
    each = levels.reshape(len(levels), -1, 1) >> np.arange(bits)[::-1] & 1
    return np.packbits(each.astype(np.uint8).reshape(len(levels), -1), axis=1).tobytes()
