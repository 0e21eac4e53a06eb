"""Data sets that are not as published, and images that cannot be used."""

import io
import json
import zlib

import numpy as np
from PIL import Image

from lrt_jax.data.build import prepare
from lrt_jax.data.images import decode
from lrt_jax.data.scenes.options import ScenesOptions
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.sources import read_source
from tests.bad_input.registry import kind

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
