"""The footer of a parquet file says what pyarrow says, and a damaged one raises an error."""

import random

import pyarrow as pa
import pytest
from pyarrow import parquet

from lrt_jax.data.sources import SourceError, read_source
from lrt_jax.data.sources.parquet_footer import Chunk, row_groups
from tests.data.sources.made import image, table, write

ROWS = [
    {"caption": f"p{i}", "image_0": image("a"), "image_1": image("b"), "votes": [i, 1]}
    for i in range(50)
]


@pytest.mark.parametrize("options", [{}, {"compression": "zstd", "write_page_index": True}])
def test_it_is_read_as_pyarrow_reads_it(tmp_path, options):
    parquet.write_table(
        pa.Table.from_pylist(ROWS), tmp_path / "t.parquet", row_group_size=20, **options
    )
    metadata = parquet.read_metadata(tmp_path / "t.parquet")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [[group.column(j) for j in range(group.num_columns)] for group in groups]
    assert row_groups(tmp_path / "t.parquet") == [
        [
            Chunk(
                chunk.path_in_schema,
                group.num_rows,
                chunk.num_values,
                chunk.total_uncompressed_size,
                chunk.total_compressed_size,
            )
            for chunk in columns
        ]
        for group, columns in zip(groups, chunks, strict=True)
    ]


def test_damaged_footers_are_named(tmp_path):
    """Some of these end the process where pyarrow is asked for a column of the footer."""
    path = table(tmp_path / "in" / "t.parquet", ROWS)
    good, named = path.read_bytes(), 0
    length = int.from_bytes(good[-8:-4], "little")
    for seed in range(60):
        chance = random.Random(seed)
        data = bytearray(good)
        for _ in range(3):
            data[-8 - chance.randrange(length)] ^= 1 << chance.randrange(8)
        write(path, bytes(data))
        try:
            read_source("folder", path.parent)
        except SourceError as error:
            named += "t.parquet" in str(error)
    assert named > 20


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"x" * 20, b"\xff" * 4 + b"PAR1", bytes(9) + b"\x09\0\0\0PAR1"]
)
def test_what_is_no_footer(tmp_path, data):
    write(tmp_path / "t.parquet", data)
    if data == bytes(9) + b"\x09\0\0\0PAR1":
        assert row_groups(tmp_path / "t.parquet") == []
        return
    with pytest.raises(ValueError, match="footer is damaged|does not end as a parquet file"):
        row_groups(tmp_path / "t.parquet")


def test_numbers_and_lists_without_an_end(tmp_path):
    for footer in (b"\x15" + b"\x80" * 1000, b"\x49\xfc\xff\xff\xff\x7f", b"\x1c" * 5000):
        write(tmp_path / "t.parquet", footer + len(footer).to_bytes(4, "little") + b"PAR1")
        with pytest.raises(ValueError, match="its footer is damaged"):
            row_groups(tmp_path / "t.parquet")
