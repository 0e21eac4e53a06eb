"""Files are found where they lie, loose or packed, and nothing outside the folder is read."""

import contextlib
import io
import os
import pickle
import resource
import tarfile
import zipfile

import pytest

from lrt_jax.data.images import ImageError
from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.source import BadRecords
from tests.data.sources.made import image, split_in, table, tar_bytes, touch, write, zipped


def contents(root, *refs) -> list[bytes]:
    loaded = {ref: load() for ref, load in InputFolder(root).loads(refs)}
    return [loaded[ref] for ref in refs]


def refusal(root, ref) -> str:
    ((found, load),) = InputFolder(root).loads([ref])
    assert found == ref
    with pytest.raises(ImageError) as caught:
        load()
    return caught.value.reason


def random_bytes(count=5000):
    return os.urandom(count)


# ---------------------------------------------------------------------------- where files lie


def test_loose_files_in_folders(tmp_path):
    touch(tmp_path, "a/b", "x.jpg")
    folder = InputFolder(tmp_path)
    assert folder.find("x.jpg", ("", "a/b")) == FileRef("a/b/x.jpg")
    elsewhere = folder.find("elsewhere/x.jpg", ("a/b",), unique_names=True)
    assert elsewhere == FileRef("a/b/x.jpg")
    assert folder.find("a\\b\\x.jpg") == FileRef("a/b/x.jpg")
    assert folder.find("y.jpg", ("a", "")) == FileRef("a/y.jpg")  # expected there
    assert contents(tmp_path, FileRef("a/b/x.jpg")) == [b"x.jpg"]


def test_zips_are_read_where_they_lie(tmp_path):
    zipped(tmp_path / "images/train_1.zip", **{"a.jpg": "A", "sub/b.jpg": "B"})
    folder = InputFolder(tmp_path)
    a = folder.find("images/train_1/a.jpg")
    assert a == FileRef("images/train_1.zip", "a.jpg")
    assert folder.names(r".*\.jpg") == [a, FileRef("images/train_1.zip", "sub/b.jpg")]
    assert contents(tmp_path, folder.find("b.jpg"), a) == [b"B", b"A"]


def test_another_image_of_the_name_is_not_taken(tmp_path):
    touch(tmp_path, "", "1.png")
    zipped(tmp_path / "a.zip", **{"b/1.png": "packed", "setA/2.png": "other"})
    folder = InputFolder(tmp_path)
    assert contents(tmp_path, folder.find("b/1.png")) == [b"packed"]
    assert folder.find("c/1.png") == FileRef("c/1.png")
    assert refusal(tmp_path, folder.find("setB/2.png", ("", "images"))) == "no such file"
    unique = folder.find("setB/2.png", unique_names=True)
    assert unique == folder.find("2.png") == FileRef("a.zip", "setA/2.png")


@pytest.mark.parametrize("member", ["1.png", "train_1/1.png", "images/train_1/1.png"])
def test_the_path_of_an_archive_may_lead_to_a_member_or_not(tmp_path, member):
    zipped(tmp_path / "images/train_1.zip", **{member: "x"})
    found = InputFolder(tmp_path).find("images/train_1/1.png")
    assert found == FileRef("images/train_1.zip", member)


def test_the_table_least_deep_in_folders_is_taken(tmp_path):
    touch(tmp_path, "", "new/t.json", "old/t.json")
    zipped(tmp_path / "a.zip", **{"b/t.json": "[]"})
    with pytest.raises(SourceError, match="both new/t.json and old/t.json may be meant; give the"):
        InputFolder(tmp_path).table(r"(.*/)?t\.json")
    touch(tmp_path, "", "t.json")
    assert InputFolder(tmp_path).table(r"(.*/)?t\.json") == FileRef("t.json")
    assert InputFolder(tmp_path).table(r"(.*/)?u\.json") is None


@pytest.mark.parametrize(
    ("name", "mode"),
    [("t.tar", "w"), ("t.tar.gz", "w:gz"), ("t.tgz", "w:gz"), ("t.tar.xz", "w:xz")],
)
def test_tars(tmp_path, name, mode):
    write(tmp_path / name, tar_bytes({"./images/a.jpg": b"A", "images/b.jpg": b"B"}, mode))
    folder = InputFolder(tmp_path)
    refs = [folder.find("images/b.jpg"), folder.find("a.jpg")]
    assert refs == [FileRef(name, "images/b.jpg"), FileRef(name, "./images/a.jpg")]
    assert contents(tmp_path, *refs) == [b"B", b"A"]


def test_split_tars_are_one(tmp_path):
    data = {f"images/{i}.jpg": random_bytes() for i in range(20)}
    split_in(tar_bytes(data), tmp_path / "images.tar.gz", 3)
    folder = InputFolder(tmp_path)
    refs = [folder.find(name) for name in data]
    assert {ref.file for ref in refs} == {"images.tar.gz.00"}
    assert contents(tmp_path, *refs) == list(data.values())


@pytest.mark.parametrize("suffixes", [("part-aa", "part-ab"), ("part00", "part01"), ("aa", "ab")])
def test_names_of_parts(tmp_path, suffixes):
    data = tar_bytes({"a.jpg": b"A"}, "w")
    for suffix, half in zip(suffixes, (data[:700], data[700:]), strict=True):
        write(tmp_path / f"x.tar.{suffix}", half)
    assert contents(tmp_path, InputFolder(tmp_path).find("a.jpg")) == [b"A"]


@pytest.mark.parametrize("suffix", [".part{}", ".part-{}", ".{}"])
def test_parts_follow_one_another_by_number(tmp_path, suffix):
    data = {f"{i}.jpg": random_bytes(900) for i in range(20)}
    split_in(tar_bytes(data, "w"), tmp_path / "x.tar", 12)
    for i in reversed(range(12)):
        (tmp_path / f"x.tar.{i:02}").rename(tmp_path / f"x.tar{suffix.format(i + 1)}")
    write(tmp_path / "x.tar.md5", "d41d8cd98f00")
    write(tmp_path / "x.tar.sha", "da39a3ee5e6b")
    folder = InputFolder(tmp_path)
    refs = folder.names(r".*\.jpg")
    assert contents(tmp_path, *map(folder.find, data)) == list(data.values())
    assert len(refs) == 20
    ordered = [f"x.tar{suffix.format(i)}" for i in range(1, 13)]
    assert [path.name for path in folder.parts(refs[0])] == ordered
    assert folder.parts(FileRef(ordered[1])) == [tmp_path / ordered[1]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("x.tar.00", "x.tar.02"), r"x\.tar\.02: the part before it is missing"),
        (("x.tar.2", "x.tar.3"), r"x\.tar\.2: the part before it is missing"),
        (("x.tar.ab", "x.tar.ac"), r"x\.tar\.ab: the part before it is missing"),
        (("x.tar.1", "x.tar.01"), r"the part before it is missing, or is there twice"),
        (("x.tar", "x.tar.00"), r"x\.tar: lies there whole and in parts \(x\.tar\.00\); remove"),
    ],
)
def test_parts_that_are_not_all_there(tmp_path, names, message):
    touch(tmp_path, "", *names)
    with pytest.raises(SourceError, match=message):
        InputFolder(tmp_path).names(".*")


def test_two_tars_of_one_stem_are_two(tmp_path):
    write(tmp_path / "x.tar", tar_bytes({"a.jpg": b"A"}, "w"))
    write(tmp_path / "x.tar.gz", tar_bytes({"b.jpg": b"B"}))
    folder = InputFolder(tmp_path)
    refs = folder.find("a.jpg"), folder.find("b.jpg")
    assert contents(tmp_path, *refs) == [b"A", b"B"]


def test_cells_of_parquet(tmp_path):
    rows = [
        {"plain": b"%d" % i, "struct": image(f"s{i}"), "one": [image(f"l{i}")]} for i in range(200)
    ]
    table(tmp_path / "t.parquet", rows)
    refs = [FileRef.cell("t.parquet", c, r) for c in ("plain", "struct", "one") for r in (199, 0)]
    assert contents(tmp_path, *refs) == [b"199", b"0", b"s199", b"s0", b"l199", b"l0"]
    assert pickle.loads(pickle.dumps(refs[0])).column_and_row == ("plain", 199)


def test_cells_without_bytes(tmp_path):
    rows = [
        {"struct": image("s"), "text": "no", "many": [image("a"), image("b")]},
        {"struct": {"bytes": None, "path": "x.jpg"}, "text": None, "many": []},
    ]
    table(tmp_path / "t.parquet", rows)
    for column, row in (("struct", 1), ("text", 0), ("text", 1), ("many", 0), ("many", 1)):
        assert refusal(tmp_path, FileRef.cell("t.parquet", column, row)) == "no bytes in the cell"


def test_rows_that_are_not_there(tmp_path):
    table(tmp_path / "t.parquet", [{"image": b"x"}])
    assert refusal(tmp_path, FileRef.cell("t.parquet", "image", 7)) == "no such row"


def test_a_name_in_several_archives_goes_by_its_path(tmp_path):
    for part in ("train_1", "train_2"):
        zipped(tmp_path / f"images/{part}.zip", **{"a.jpg": part})
    folder = InputFolder(tmp_path)
    assert contents(tmp_path, folder.find("images/train_2/a.jpg")) == [b"train_2"]
    with pytest.raises(SourceError, match=r"may be images/train_1/a.jpg or images/train_2/a.jpg"):
        folder.find("a.jpg")


def test_what_downloads_leave_behind_is_no_data(tmp_path):
    write(tmp_path / ".cache/huggingface/download/train.tar.gz.metadata", "x")
    write(tmp_path / ".t.parquet.part", "x")
    assert InputFolder(tmp_path).names(".*") == []


# ---------------------------------------------------------------------------- ways out


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "..\\secret"])
def test_names_that_lead_out(tmp_path, name):
    write(tmp_path / "secret", "no")
    root = tmp_path / "in"
    touch(root, "a", "x")
    ref = InputFolder(root).find(name)
    assert refusal(root, ref) == "outside the input folder"


def test_links_that_lead_out(tmp_path):
    write(tmp_path / "secret/x.jpg", "no")
    root = tmp_path / "in"
    touch(root, "", "a.jpg")
    (root / "file.jpg").symlink_to(tmp_path / "secret/x.jpg")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "inside.jpg").symlink_to(root / "a.jpg")
    folder = InputFolder(root)
    assert refusal(root, folder.find("file.jpg")) == "outside the input folder"
    assert refusal(root, folder.find("folder/x.jpg")) == "outside the input folder"
    assert contents(root, folder.find("inside.jpg")) == [b"a.jpg"]


@pytest.fixture
def two_roots(tmp_path):
    """An input folder with a.jpg, and another folder of images, beside a secret."""
    for file in ("in/a.jpg", "big/sub/b.jpg", "secret/x.jpg"):
        write(tmp_path / file, file)
    return tmp_path / "in", tmp_path / "big"


def test_absolute_paths_into_the_input_folder_are_paths_inside_it(two_roots):
    root, _ = two_roots
    folder = InputFolder(root)
    assert folder.find(str(root / "a.jpg")) == FileRef("a.jpg")
    assert folder.find(f"{root}/../secret/x.jpg").file.startswith("/")
    (root.parent / "link").symlink_to(root)
    linked = InputFolder(root.parent / "link")
    for name in ("a.jpg", f"{root}/a.jpg", f"{root.parent}/link/a.jpg"):
        assert linked.find(name) == FileRef("a.jpg")


def test_images_of_a_named_folder(two_roots):
    root, images = two_roots
    (root / "linked").symlink_to(images)
    folder = InputFolder(root, images)
    b = FileRef("sub/b.jpg")
    assert folder.find(str(images / "sub/b.jpg")) == folder.find("sub/b.jpg") == b
    through_link = folder.find("b.jpg", ("", "linked/sub"))
    assert through_link == FileRef("linked/sub/b.jpg")
    assert folder.find("a.jpg") == FileRef("a.jpg")
    assert folder.names(r".*\.jpg") == [FileRef("a.jpg"), through_link]
    loaded = [load() for _, load in folder.loads([b, through_link, FileRef("a.jpg")])]
    assert loaded == [b"big/sub/b.jpg", b"big/sub/b.jpg", b"in/a.jpg"]
    assert folder.parts(b) == [images / "sub/b.jpg"]


def test_nothing_else_is_read_where_a_folder_is_named(two_roots):
    root, images = two_roots
    secret = root.parent / "secret"
    (images / "out").symlink_to(secret)
    (images / "loop").symlink_to(images)
    (root / "linked").symlink_to(images)
    folder = InputFolder(root, images)
    for name in (str(secret / "x.jpg"), "out/x.jpg", "linked/out/x.jpg", "../secret/x.jpg"):
        ((_, load),) = folder.loads([folder.find(name)])
        with pytest.raises(ImageError, match="outside the input folder"):
            load()
    write(images / "a.jpg", "another")
    with pytest.raises(SourceError, match=r"a\.jpg has the same name in the input folder; rename"):
        folder.find(str(images / "a.jpg"))


def test_where_an_image_is_outside_the_remedy_is_told(two_roots):
    root, images = two_roots
    (root / "images").symlink_to(images)
    folder = InputFolder(root)
    for name in (str(images / "sub/b.jpg"), "sub/b.jpg"):
        ((_, load),) = folder.loads([folder.find(name, ("", "images"))])
        with pytest.raises(ImageError, match=r"it is .*big/sub/b.jpg; .* --image_root of"):
            load()


@pytest.mark.parametrize("name", ["t.json", "t.parquet", "t.zip", "t.tar"])
def test_tables_and_archives_that_lead_out(tmp_path, name):
    write(tmp_path / name, "no")
    root = tmp_path / "in"
    root.mkdir()
    (root / name).symlink_to(tmp_path / name)
    with pytest.raises(SourceError, match="outside the input folder"):
        folder = InputFolder(root)
        folder.names(".*json")
        folder.read(FileRef(name)) if name == "t.json" else folder.path(FileRef(name))


def test_members_that_lead_out(tmp_path):
    zipped(tmp_path / "z.zip", **{"../x.jpg": "no", "/y.jpg": "no"})
    write(tmp_path / "t.tar", tar_bytes({"../v.jpg": b"no"}, "w"))
    folder = InputFolder(tmp_path)
    for name in ("x.jpg", "y.jpg", "v.jpg"):
        assert refusal(tmp_path, folder.find(name)) == "outside the input folder"


def test_links_in_tars(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in (("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    write(tmp_path / "t.tar", stream.getvalue())
    for name in ("soft.jpg", "hard.jpg"):
        assert refusal(tmp_path, FileRef("t.tar", name)) == "outside the input folder"


# ---------------------------------------------------------------------------- what is broken


@pytest.mark.parametrize(
    "ref", [FileRef("x.jpg"), FileRef("z.zip", "x.jpg"), FileRef("t.tar", "x")]
)
def test_what_is_missing(tmp_path, ref):
    zipped(tmp_path / "z.zip", **{"a.jpg": "A"})
    write(tmp_path / "t.tar", tar_bytes({"a.jpg": b"A"}, "w"))
    assert refusal(tmp_path, ref) == "no such file"


def test_no_such_folder(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such folder; give the folder"):
        InputFolder(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="nowhere: no such folder; image_root is"):
        InputFolder(tmp_path, tmp_path / "nowhere")
    write(tmp_path / "file", "")
    with pytest.raises(SourceError, match="file: is a file, not a folder; give the folder"):
        InputFolder(tmp_path / "file")


@pytest.mark.parametrize("name", ["t.zip", "t.tar", "t.tar.gz"])
def test_archives_cut_off(tmp_path, name):
    members = {f"{i}.jpg": random_bytes() for i in range(20)}
    whole = zipped(tmp_path / "whole", **members).read_bytes()
    if name != "t.zip":
        whole = tar_bytes(members, "w:gz" if name.endswith("gz") else "w")
    write(tmp_path / name, whole[: len(whole) // 2 + 99])
    with pytest.raises(SourceError, match=rf"{name}: cannot be read .*; fetch it again"):
        InputFolder(tmp_path).find("7.jpg")


@pytest.mark.parametrize(("cut", "changed"), [(10 * 1024, b""), (10 * 1024 + 9, b""), (None, b"x")])
def test_a_tar_that_stops_between_two_members(tmp_path, cut, changed):
    whole = bytearray(tar_bytes({f"{i}.jpg": b"x" for i in range(20)}, "w"))
    whole[10 * 1024 : 10 * 1024 + len(changed)] = changed  # where a header begins
    write(tmp_path / "t.tar", bytes(whole[:cut]))
    with pytest.raises(SourceError, match=r"t\.tar: cannot be read .*; fetch it again"):
        InputFolder(tmp_path).names(r".*\.jpg")


def test_a_broken_archive_is_no_bad_record(tmp_path):
    write(tmp_path / "t.tar", tar_bytes({f"{i}.jpg": b"x" for i in range(20)}, "w")[:1024])
    bad = BadRecords()
    with pytest.raises(SourceError, match=r"t\.tar: cannot be read"):
        bad.try_to(InputFolder(tmp_path).find, "7.jpg")
    assert not bad.problems


def test_a_parquet_file_cut_off(tmp_path):
    path = table(tmp_path / "t.parquet", [{"image": random_bytes()}])
    write(path, path.read_bytes()[:-40])
    with pytest.raises(SourceError, match=r"t.parquet: cannot be read .*; fetch it again"):
        list(InputFolder(tmp_path).loads([FileRef.cell("t.parquet", "image", 0)]))


def encrypted(path):
    """A zip whose member says that it is encrypted."""
    data = bytearray(zipped(path, **{"a.jpg": "A", "t.json": "[]"}).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := data.find(signature, start)) >= 0:
            data[start + flags] |= 1
            start += 4
    write(path, bytes(data))
    assert zipfile.ZipFile(path).infolist()[0].flag_bits & 1


def test_an_encrypted_zip(tmp_path):
    encrypted(tmp_path / "z.zip")
    assert refusal(tmp_path, FileRef("z.zip", "a.jpg")) == "cannot be read"
    with pytest.raises(SourceError, match=r"z\.zip!t\.json: cannot be read .*encrypted"):
        InputFolder(tmp_path).read(FileRef("z.zip", "t.json"))


# ---------------------------------------------------------------------------- limits


@contextlib.contextmanager
def no_more_files():
    """This process can open nothing, as where many shards and `ulimit -n 256` meet."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "ref",
    [
        FileRef("t.png"),
        FileRef("t.tar", "x"),
        FileRef.cell("t.parquet", "a", 0),
    ],
)
def test_a_process_that_may_open_no_more_files_is_told_so(tmp_path, ref):
    """The files are whole: to fetch them again would not help."""
    touch(tmp_path, "", ref.file)
    folder = InputFolder(tmp_path)
    assert folder.names(ref.file) == [FileRef(ref.file)]  # what there is has been listed
    with no_more_files(), pytest.raises(OSError, match=f"many open files: .*{ref.file}") as caught:
        for _, load in folder.loads([ref]):
            load()
    assert "ulimit -n" in caught.value.__notes__[0]
