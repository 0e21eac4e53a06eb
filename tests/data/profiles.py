"""Colour profiles made here, for image files."""

import struct

from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# sRGB with red and green changed for one another.
SWAPPED = SRGB.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
CUT = SRGB[:200]


def _linear_gray() -> bytes:
    """A profile by which a gray's number is its share of white's light."""
    white = struct.pack(">3i", *(round(65536 * x) for x in (0.9642, 1, 0.8249)))
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, 2) + b"g".ljust(82, b"\0"),
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"kTRC": b"curv" + struct.pack(">II", 0, 0),
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value.ljust(-(-len(value) // 4) * 4, b"\0")
    size = struct.pack(">I", start + len(body))
    head = size + bytes([0, 0, 0, 0, 2, 0x20, 0, 0]) + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    return (head + bytes(28) + white).ljust(128, b"\0") + table + body


LINEAR_GRAY = _linear_gray()
