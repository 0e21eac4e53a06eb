"""Data sets that are not as published, and images that cannot be used."""

import io
import json
import tarfile
import zipfile
import zlib

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from lrt_jax.config.scenes import ScenesOptions
from lrt_jax.data.images import decode
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.sources import read_source
from lrt_jax.data.sources.fetch import local_folder, refuse_others
from lrt_jax.data.sources.files import InputFolder
from tests.bad_input.registry import kind
from tests.data import raw_images

RAW = "Data sets as published"


def hpd(title: str, **changes):
    """A record of HPDv2's training file with a field changed, or left out where it is None."""
    record = {
        "prompt": "a cat",
        "image_path": ["0.png", "1.png"],
        "human_preference": [1, 0],
    }

    def case(folder):
        fields = {name: x for name, x in (record | changes).items() if x is not None}
        (folder / "train.json").write_text(json.dumps([record, fields]))
        read_source("hpdv2", folder)

    kind(RAW, title)(case)


@kind(RAW, "a source that there is not")
def _(folder):
    read_source("hpd2", folder)


@kind(RAW, "a folder that is not there")
def _(folder):
    read_source("hpdv2", folder / "nowhere")


@kind(RAW, "a folder of something else")
def _(folder):
    read_source("imagereward", folder)


@kind(RAW, "a file cut off in the middle")
def _(folder):
    (folder / "train.json").write_text('[{"prompt": "a c')
    read_source("hpdv2", folder)


@kind(RAW, "text of another encoding")
def _(folder):
    (folder / "train.json").write_bytes(
        json.dumps([{"prompt": "café"}], ensure_ascii=False).encode("latin-1")
    )
    read_source("hpdv2", folder)


@kind(RAW, "JSON that is no list")
def _(folder):
    (folder / "train.json").write_text("{}")
    read_source("hpdv2", folder)


@kind(RAW, "no records")
def _(folder):
    (folder / "train.json").write_text("[]")
    read_source("hpdv2", folder)


@kind(RAW, "a parquet file that is none")
def _(folder):
    (folder / "metadata-train.parquet").write_bytes(b"PAR1 no")
    read_source("imagereward", folder)


hpd("a field that is missing", human_preference=None)
hpd("a field of another type ", prompt=7)
hpd("an empty caption", prompt="  ")
hpd("negative votes", human_preference=[-1, 1])
hpd("votes that are no numbers", human_preference=[float("nan"), 0])
hpd("votes beyond all bounds", human_preference=[10**400, 0])
hpd("half a character", prompt="a \ud800 cat")
hpd("three images in a pair", image_path=["0.png", "1.png", "2.png"])


@kind(RAW, "an image with two ranks")
def _(folder):
    pair = {"group_id": 1, "prompt": "a cat", "image_0": "a", "image_1": "b", "rank_0": 1}
    other = pair | {"image_1": "c", "rank_0": 2, "rank_1": 3}
    lines = map(json.dumps, (pair | {"rank_1": 2}, other))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    read_source("imagereward", folder)


@kind(RAW, "a group with two captions")
def _(folder):
    pair = {"group_id": 1, "image_0": "a", "image_1": "b", "rank_0": 1, "rank_1": 2}
    lines = (json.dumps(pair | {"prompt": prompt}) for prompt in ("a cat", "a dog"))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    read_source("imagereward", folder)


# ---------------------------------------------------------------------------- other sources


def cells(title: str, source: str, row: dict, name: str = "t.parquet"):
    """A parquet file of one row."""

    def case(folder):
        parquet.write_table(pa.Table.from_pylist([row]), folder / name)
        read_source(source, folder)

    kind(RAW, title)(case)


RAPIDATA = {
    "prompt": "a cat",
    "image1": {"bytes": b"0", "path": "0.jpg"},
    "image2": {"bytes": b"1", "path": "1.jpg"},
    "votes_image1": 3,
    "votes_image2": 4,
}
PICKAPIC = {"caption": "a cat", "jpg_0": b"0", "jpg_1": b"1", "ranking_id": 1}
cells("rapidata: a column that is missing", "rapidata", {"prompt": "a cat", "votes_image1": 3})
cells("rapidata: negative votes", "rapidata", RAPIDATA | {"votes_image1": -3})
cells("rapidata: votes that are no counts", "rapidata", RAPIDATA | {"votes_image1": 0.5})
cells("rapidata: votes that are missing", "rapidata", RAPIDATA | {"votes_image2": None})
cells(
    "rapidata: shares that are not one",
    "rapidata",
    {name: x for name, x in RAPIDATA.items() if "votes" not in name}
    | {f"weighted_results_image{i}_alignment": 0.2 for i in (1, 2)}
    | {"detailed_results_alignment": "[]"},
)
PART = "train-00000-of-00001.parquet"
cells(
    "pickapic: labels that add up to 2", "pickapic", PICKAPIC | {"label_0": 1, "label_1": 1}, PART
)
cells(
    "pickapic: a label that is no number",
    "pickapic",
    PICKAPIC | {"label_0": float("nan"), "label_1": 1.0},
    PART,
)
cells(
    "pickapic: the set without images",
    "pickapic",
    {name: x for name, x in PICKAPIC.items() if "jpg" not in name} | {"label_0": 1, "label_1": 0},
    PART,
)
cells(
    "genai_bench: another vote",
    "genai_bench",
    {"prompt": "a cat", "left_model": "m", "right_model": "n", "vote_type": "upvote"}
    | {f"{side}_image": {"bytes": b"0", "path": "0.jpg"} for side in ("left", "right")},
)


@kind(RAW, "hpdv3: votes against the preferred image")
def _(folder):
    record = {"prompt": "a cat", "path1": "0.jpg", "path2": "1.jpg", "choice_dist": [3, 9]}
    (folder / "train.json").write_text(json.dumps([record]))
    read_source("hpdv3", folder)


@kind(RAW, "mmrb2: marks beyond 6")
def _(folder):
    responses = {
        f"response_{side}": {"model_name": "m", "response_content": [["image", "0.jpg"]]}
        for side in "ab"
    }
    pair = {"id": "1", "prompt_content": [["text", "a cat"]], "chosen": "A"} | responses
    (folder / "t2i.json").write_text(json.dumps({"pairs": [pair | {"human_annotations": [7]}]}))
    read_source("mmrb2", folder)


@kind(RAW, "mmrb2: the file without captions")
def _(folder):
    (folder / "t2i_response_only.json").write_text('{"pairs": []}')
    read_source("mmrb2", folder)


# ---------------------------------------------------------------------------- data of one's own

OWN = {"caption": "a cat", "images": ["0.png", "1.png"]}


def own(title: str, row: dict):
    def case(folder):
        (folder / "mine.jsonl").write_text(f"{json.dumps(OWN | {'winner': 0})}\n{json.dumps(row)}")
        read_source("folder", folder)

    kind(RAW, title)(case)


own("folder: no caption", {"images": ["0.png", "1.png"], "winner": 0})
own("folder: no judgement", OWN)
own("folder: one image", OWN | {"images": ["0.png"], "winner": 0})
own("folder: an image twice", OWN | {"images": ["0.png", "0.png"], "ranks": [1, 1]})
own("folder: a winner that there is not", OWN | {"winner": 2})
own("folder: too few votes", OWN | {"votes": [1]})
own("folder: negative votes", OWN | {"votes": [-1, 2]})
own("folder: ranks that are no numbers", OWN | {"ranks": [1, float("nan")]})
own("folder: very many images", {"caption": "p", "images": [f"{i}.png" for i in range(2500)]})
own("folder: a caption that is too long", OWN | {"caption": "x" * 20_000, "winner": 0})
own("folder: a field that may say several things", OWN | {"label": 1})
own(
    "folder: a numbered winner of images that count from 1",
    {"prompt": "a cat", "image_1": "0.png", "image_2": "1.png", "preferred": 1},
)


@kind(RAW, "folder: neither JSONL nor CSV nor parquet")
def _(folder):
    (folder / "mine.xlsx").write_text("PK")
    read_source("folder", folder)


@kind(RAW, "JSONL: a caption that is not UTF-8")
def _(folder):
    line = json.dumps(OWN | {"caption": "café", "winner": 0}, ensure_ascii=False)
    (folder / "mine.jsonl").write_bytes(line.encode("latin-1"))
    read_source("folder", folder)


@kind(RAW, "CSV: a caption that is not UTF-8")
def _(folder):
    text = "caption,image_0,image_1,winner\ncafé,0.png,1.png,0\n"
    (folder / "mine.csv").write_bytes(text.encode("latin-1"))
    read_source("folder", folder)


@kind(RAW, "JSONL: a key that is there twice")
def _(folder):
    line = json.dumps(OWN | {"winner": 0})
    (folder / "mine.jsonl").write_text(line[:-1] + ', "winner": 1}')
    read_source("folder", folder)


@kind(RAW, "JSONL: nested too deeply")
def _(folder):
    (folder / "mine.jsonl").write_text("[" * 100_000)
    read_source("folder", folder)


@kind(RAW, "CSV: a row that is too long")
def _(folder):
    (folder / "mine.csv").write_text("caption,image_0,image_1,winner\na cat, red,0.png,1.png,0\n")
    read_source("folder", folder)


@kind(RAW, "parquet: a caption that is not UTF-8")
def _(folder):
    captions = pa.array(["café".encode("latin-1")], pa.binary()).view(pa.string())
    rest = [pa.array([value]) for value in ("0.png", "1.png", 0)]
    names = ["caption", "image_0", "image_1", "winner"]
    parquet.write_table(pa.table([captions, *rest], names), folder / "mine.parquet")
    read_source("folder", folder)


# ---------------------------------------------------------------------------- ways out, archives


def leads_out(title: str, prepare, name: str):
    """An image that is not in the folder."""

    def case(folder):
        (folder / "secret").write_text("no")
        root = folder / "in"
        root.mkdir()
        prepare(root)
        inputs = InputFolder(root)
        for _, load in inputs.loads([inputs.find(name)]):
            load()

    kind(RAW, title)(case)


def zip_with(name: str):
    def prepare(root):
        with zipfile.ZipFile(root / "t.zip", "w") as archive:
            archive.writestr(name, "no")

    return prepare


leads_out("a path that leads out of the folder", lambda root: None, "../secret")
leads_out("an absolute path", lambda root: None, "/etc/passwd")
leads_out("a link out of the folder", lambda root: (root / "a").symlink_to("../secret"), "a")
leads_out("a path in a zip that leads out", zip_with("../secret"), "secret")


@kind(RAW, "a table that is a link out of the folder")
def _(folder):
    (folder / "in").mkdir()
    (folder / "train.json").write_text("[]")
    (folder / "in" / "train.json").symlink_to("../train.json")
    read_source("hpdv2", folder / "in")


@kind(RAW, "a zip whose member declares gigabytes")
def _(folder):
    with zipfile.ZipFile(folder / "t.zip", "w") as archive:
        archive.writestr("a.jpg", "x")
        archive.getinfo("a.jpg").file_size = 5 * 2**30
    inputs = InputFolder(folder)
    for _, load in inputs.loads([inputs.find("a.jpg")]):
        load()


@kind(RAW, "a parquet file of more rows than bytes")
def _(folder):
    rows = pa.table({"caption": pa.nulls(1_000_000, pa.string())})
    parquet.write_table(rows, folder / "mine.parquet")
    read_source("folder", folder)


@kind(RAW, "a file in place of a folder")
def _(folder):
    (folder / "train.json").write_text("[]")
    local_folder("hpdv2", folder / "train.json", folder / "cache")


@kind(RAW, "a zip cut off in the middle")
def _(folder):
    zip_with("a.jpg")(folder)
    (folder / "t.zip").write_bytes((folder / "t.zip").read_bytes()[:-30])
    read_source("imagereward", folder)


@kind(RAW, "two images of a name in two archives")
def _(folder):
    (folder / "train.json").write_text(
        '[{"prompt": "p", "file_path": ["a.jpg", "b.jpg"], "human_preference": [1, 0]}]'
    )
    for name in ("x.zip", "y.zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("a.jpg", "x")
    read_source("hpdv2", folder)


@kind(RAW, "two tables of a name in two folders")
def _(folder):
    for name in ("new", "old"):
        (folder / name).mkdir()
        (folder / name / "train.json").write_text("[]")
    read_source("hpdv2", folder)


def part(title: str, *names: str):
    """Files that are taken for parts of a tar."""

    def case(folder):
        for name in names:
            (folder / name).write_bytes(b"x")
        read_source("hpdv2", folder)

    kind(RAW, title)(case)


part("a part of a split tar that is missing", "images.tar.gz.00", "images.tar.gz.02")
part("a tar both whole and in parts", "images.tar.gz", "images.tar.gz.00")


@kind(RAW, "a tar cut off between two members")
def _(folder):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("0.jpg", "1.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    (folder / "t.tar").write_bytes(stream.getvalue()[:512])
    read_source("hpdv2", folder)


@kind(RAW, "files of a fetched set's other version")
def _(folder):
    (folder / "acme--pairs").mkdir()
    (folder / "acme--pairs" / "train-00000-of-00001.parquet").write_bytes(b"x")
    refuse_others(folder / "acme--pairs", "acme/pairs", ["train-00000-of-00002.parquet"])


@kind(RAW, "a source to fetch that there is not")
def _(folder):
    local_folder("hpd2", None, folder / "cache")


@kind(RAW, "a folder that is neither here nor elsewhere")
def _(folder):
    local_folder("hpdv2", folder / "nowhere", folder / "cache")


@kind(RAW, "a source that cannot be fetched by itself")
def _(folder):
    local_folder("pickapic", None, folder / "cache")


@kind(RAW, "scenes without their ground truth")
def _(folder):
    write_scenes(folder / "scenes", ScenesOptions(train=1, validation=1, test=0))
    (folder / "scenes" / "truth.jsonl").unlink()
    read_source("scenes", folder / "scenes")


IMAGES = "Images"


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def saved(mode: str, form: str) -> bytes:
    """A black image in a file of some kind."""
    file = io.BytesIO()
    Image.new(mode, (40, 30)).save(file, form)
    return file.getvalue()


def image(title: str, data: bytes | None):
    """One image of a pair is bad; the other is not."""

    def case(folder):
        record = {"prompt": "a cat", "image_path": ["0.png", "1.png"], "human_preference": [1, 0]}
        (folder / "in" / "train").mkdir(parents=True)
        (folder / "in" / "train.json").write_text(json.dumps([record]))
        (folder / "in" / "train" / "0.png").write_bytes(png(40, 30))
        if data is not None:
            (folder / "in" / "train" / "1.png").write_bytes(data)
        prepare("hpdv2", folder / "in", folder / "out")

    kind(IMAGES, title)(case)


image("missing", None)
image("empty", b"")
image("not an image", b"<html>404</html>")
image("a drawing, which Pillow would start a program for", saved("RGB", "EPS"))
image("numbers of which nobody knows the largest", saved("F", "TIFF"))
image(
    "a transparent colour of which Pillow tells one half",
    raw_images.png(np.full((30, 40, 3), 257), 16, (257, 257, 257)),
)
image("truncated", png(40, 30)[:1000])
image("smaller than a patch", png(10, 30))
image("far too long", png(2900, 14))
image("the other image again, so that no pair is left", png(40, 30))


def bomb(side: int) -> bytes:
    """A PNG that is small as a file and large as an image."""
    header = png(1, 1)
    size = b"IHDR" + side.to_bytes(4, "big") * 2 + header[24:29]
    return header[:12] + size + zlib.crc32(size).to_bytes(4, "big") + header[33:]


@kind(IMAGES, "a decompression bomb")
def _(_):
    decode(bomb(30_000), "bomb.png")
