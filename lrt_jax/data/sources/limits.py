"""How large a data set's files and records may be, checked before anything is read or unpacked.

A small archive, parquet file or row can declare what fills the memory. Published data sets keep far
within these bounds: their largest images have some 10 MB, captions 4,000 characters, rankings 10
images.
"""

IMAGE_BYTES = 256 * 2**20  # of an image's file, and of any file that an archive unpacks to
TABLE_BYTES = 4 * 2**30  # of a file of records
UNPACKED_RATIO = 100  # bytes for each packed one, beyond the first `IMAGE_BYTES`
HEADER_BYTES = 2**20  # of a tar member's long name or extended header
LINE_CHARACTERS = 16 * 2**20  # of a record in JSON lines or CSV
TABLE_ROWS = 10_000  # of a parquet file, or one for each of its bytes where that is more
BATCH_BYTES = 512 * 2**20  # of a parquet file's rows that are in memory together
RANKED_IMAGES = 100  # of a group in which every image is compared with every other
CAPTION_CHARACTERS = 10_000
NAME_CHARACTERS = 4_096  # of a file, group or generator; the longest path that Linux knows


def unpacked_bytes(packed: int) -> int:
    """How many bytes may come of so many packed ones."""
    return max(IMAGE_BYTES, UNPACKED_RATIO * packed)
