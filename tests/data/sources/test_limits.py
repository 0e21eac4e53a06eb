"""Small files that declare what would fill the memory are refused before they are unpacked."""

import json
import tarfile
import tracemalloc
import zipfile

import pyarrow as pa
import pytest
from pyarrow import parquet

from lrt_jax.data.images import ImageError
from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources import SourceError, archives, limits, read_source, reading, row_batches
from lrt_jax.data.sources.files import InputFolder
from tests.data.sources.made import json_lines, table, tar_bytes, write

LARGE = limits.IMAGE_BYTES + 1


def refusal(root, ref) -> str:
    ((_, load),) = InputFolder(root).loads([ref])
    with pytest.raises(ImageError) as caught:
        load()
    return str(caught.value)


@pytest.fixture
def small(monkeypatch):
    """Bounds that cheap files exceed."""
    for module in (archives, reading, row_batches):
        monkeypatch.setattr(module, "unpacked_bytes", lambda _: 100_000)


# ---------------------------------------------------------------------------- files, zips


def test_a_loose_file_that_is_too_large_for_an_image(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(LARGE)  # takes no space
    assert "a.jpg: file too large (268,435,457 bytes, of which at most 268,435,456 are read)" in (
        refusal(tmp_path, FileRef("a.jpg"))
    )


def test_an_image_that_is_a_folder(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    assert refusal(tmp_path, FileRef("a.jpg")).endswith("a.jpg: a folder, not a file")


@pytest.mark.parametrize("name", ["a.jpg", "t.json"])
def test_a_member_of_a_zip_that_declares_too_much(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"x")
        archive.getinfo(name).file_size = LARGE
    ref = FileRef("z.zip", name)
    assert "file too large (268,435,457 bytes, of which at most 268,435,456" in (
        refusal(tmp_path, ref)
    )
    with pytest.raises(SourceError, match=rf"z\.zip!{name}: file too large .*; split it"):
        InputFolder(tmp_path).read(ref)


def test_a_member_of_a_zip_that_holds_more_than_it_declares(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.jpg", bytes(2**25))
        archive.getinfo("a.jpg").file_size = 1000
    tracemalloc.start()
    try:
        assert "z.zip!a.jpg: cannot be read" in refusal(tmp_path, FileRef("z.zip", "a.jpg"))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------- tars


def sparse_tar(name: str, size: int) -> bytes:
    """A tar with one member of nothing but a hole, in GNU's old format."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for place, number in ((386, 0), (398, 0), (483, size)):
        header[place : place + 12] = f"{number:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize("name", ["a.jpg", "t.json"])
def test_a_sparse_member_of_a_tar(tmp_path, name):
    write(tmp_path / "t.tar", sparse_tar(name, 2**32))
    ref = FileRef("t.tar", name)
    assert "file too large (4,294,967,296 bytes, of which at most" in refusal(tmp_path, ref)
    with pytest.raises(SourceError, match=rf"t\.tar!{name}: file too large .*; split it"):
        InputFolder(tmp_path).read(ref)


@pytest.mark.parametrize(
    ("name", "mode"), [("t.tar.gz", "w:gz"), ("t.tar.bz2", "w:bz2"), ("t.tar.xz", "w:xz")]
)
def test_a_packed_tar_of_zeros(tmp_path, small, name, mode):
    write(tmp_path / name, tar_bytes({"a.jpg": bytes(300_000), "b.jpg": b"x"}, mode))
    with pytest.raises(SourceError, match=rf"{name}: .*unpacks to more than 100,000 bytes"):
        InputFolder(tmp_path).find("b.jpg")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_whose_header_declares_too_much(tmp_path, kind):
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = kind, 2**32
    write(tmp_path / "t.tar", info.tobuf() + bytes(1024))
    with pytest.raises(SourceError, match=r"t\.tar: .*header has 4,294,967,296 bytes; at most"):
        InputFolder(tmp_path).find("a.jpg")


# ---------------------------------------------------------------------------- parquet

PAIR = {"caption": "p", "image_0": "a.jpg", "image_1": "b.jpg", "winner": 0}


def test_a_parquet_file_of_more_rows_than_bytes(tmp_path):
    rows = pa.table({name: pa.array([value]).take([0] * 200_000) for name, value in PAIR.items()})
    parquet.write_table(rows, tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"t\.parquet: declares 200,000 rows in [\d,]+ bytes, of"):
        read_source("folder", tmp_path)


@pytest.mark.parametrize("use_dictionary", [False, True])
def test_a_parquet_file_of_packed_zeros(tmp_path, small, use_dictionary):
    rows = pa.Table.from_pylist([PAIR | {"caption": "x" * 400_000}])
    parquet.write_table(
        rows, tmp_path / "t.parquet", compression="zstd", use_dictionary=use_dictionary
    )
    with pytest.raises(SourceError, match=r"t\.parquet: declares that row group 0 unpacks from"):
        read_source("folder", tmp_path)
    with pytest.raises(SourceError, match=r"t\.parquet: declares that row group 0 unpacks from"):
        list(InputFolder(tmp_path).loads([FileRef.cell("t.parquet", "caption", 0)]))


def test_a_long_text_that_all_rows_of_a_parquet_file_share(tmp_path, small):
    table(tmp_path / "t.parquet", [PAIR | {"caption": "x" * 9000}] * 100)
    with pytest.raises(SourceError, match=r"t\.parquet: its texts have more than [\d,]+ bytes"):
        read_source("folder", tmp_path)


def test_rows_that_share_large_values_are_read_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(row_batches, "BATCH_BYTES", 1_000_000)
    path = table(tmp_path / "t.parquet", [{"image_0": bytes(90_000)}] * 64)
    with parquet.ParquetFile(path) as file:
        batches = list(row_batches.row_batches(file, path, ["image_0"]))
    assert [first for first, _ in batches] == list(range(0, 64, 11))
    assert sum(len(batch) for _, batch in batches) == 64


def test_a_parquet_file_with_endless_lists(tmp_path):
    table(tmp_path / "t.parquet", [PAIR | {"votes": [1] * 1000}])
    with pytest.raises(SourceError, match=r"1,000 values in 1 rows of column 'votes\.list"):
        read_source("folder", tmp_path)


# ---------------------------------------------------------------------------- records


def ranked(count: int) -> dict:
    return {"caption": "p", "images": [f"{i}.jpg" for i in range(count)]}


@pytest.mark.parametrize(
    "judgement", [{"ranks": list(range(2500))}, {"votes": [1] * 2500}, {"winner": 0}]
)
def test_a_row_of_very_many_images(tmp_path, judgement):
    json_lines(tmp_path / "t.jsonl", [ranked(2500) | judgement, ranked(2) | {"winner": 0}])
    message = r"line 1: field 'images' names 2,500 images; a group has at most 100"
    with pytest.raises(SourceError, match=message):
        read_source("folder", tmp_path)
    data = read_source("folder", tmp_path, skip_bad=True)
    assert len(data.groups) == len(data.bad_records) == 1


def test_published_groups_of_very_many_images(tmp_path):
    names, ranks = [f"{i}.jpg" for i in range(200)], list(range(200))
    write(tmp_path / "a/test.json", [{"prompt": "p", "image_path": names, "rank": ranks}])
    write(
        tmp_path / "b/test.json",
        [{"id": 1, "prompt": "p"} | dict(generations=names, ranking=ranks)],
    )
    rows = [{"image_path": x, "prompt_id": 1, "prompt": "p", "rank": 1} for x in names]
    write(tmp_path / "c/train_1.json", rows)
    for source, folder in (("hpdv2", "a"), ("imagereward", "b"), ("imagereward", "c")):
        with pytest.raises(SourceError, match=r"record 0: .* names 200 images; a group has at mo"):
            read_source(source, tmp_path / folder)


def test_a_caption_that_is_too_long(tmp_path):
    pair = ranked(2) | {"winner": 0}
    json_lines(tmp_path / "t.jsonl", [pair | {"caption": "x" * 1_000_000}, pair])
    message = r"line 1: field 'caption' has 1,000,000 characters; a caption has at most 10,000"
    with pytest.raises(SourceError, match=message):
        read_source("folder", tmp_path)
    assert len(read_source("folder", tmp_path, skip_bad=True).groups) == 1


@pytest.mark.parametrize("field", ["group_id", "generators", "images"])
def test_a_name_that_is_too_long(tmp_path, field):
    long = "x" * 5000
    value = long if field == "group_id" else [long, "y"]
    json_lines(tmp_path / "t.jsonl", [ranked(2) | {"winner": 0, field: value}])
    with pytest.raises(SourceError, match=rf"field '{field}' has 5,000 characters; .* 4,096"):
        read_source("folder", tmp_path)


def test_a_line_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LINE_CHARACTERS", 1000)
    json_lines(tmp_path / "t.jsonl", [ranked(2) | {"winner": 0}, ranked(99) | {"winner": 0}])
    with pytest.raises(SourceError, match=r"line 2: has 1,\d+ characters, .*one record a line"):
        read_source("folder", tmp_path)
    assert len(read_source("folder", tmp_path, skip_bad=True).groups) == 1


def test_errors_quote_little_of_what_is_long(tmp_path):
    json_lines(tmp_path / "t.jsonl", [ranked(2) | {"winner": ["x" * 10**6] * 9}])
    with pytest.raises(SourceError, match="field 'winner' is") as caught:
        read_source("folder", tmp_path)
    assert len(str(caught.value)) < 1000


def test_csv_values_that_are_too_long(tmp_path):
    write(tmp_path / "t.csv", f"caption,image_0,image_1,winner\np,a,b,0\n{'x' * 200_000},a,b,0\n")
    with pytest.raises(SourceError, match=r"t\.csv, line 3: not CSV \(field larger than"):
        read_source("folder", tmp_path)


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deeply_nested_json(tmp_path, depth):
    nested = "[" * depth + "]" * depth
    row = json.dumps(ranked(2) | {"winner": 0})
    lines = (row, row.replace('"winner": 0', f'"winner": {nested}'))
    write(tmp_path / "t.jsonl", "\n".join(lines))
    with pytest.raises(SourceError, match=r"line 2: (not JSON|field 'winner' is)"):
        read_source("folder", tmp_path)
    assert len(read_source("folder", tmp_path, skip_bad=True).groups) == 1
    write(tmp_path / "h/train.json", nested)
    with pytest.raises(SourceError, match=r"train\.json(: not JSON|, record 0: is a list)"):
        read_source("hpdv2", tmp_path / "h")
