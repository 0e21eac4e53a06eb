"""Questions to a reward model: images and captions, files of rows, and calls of its server."""

import base64
import io
import json

import numpy as np
from PIL import Image

from lrt_jax.inference.preference_reward import PreferenceReward
from lrt_jax.inference.rows import RowsFile
from lrt_jax.inference.scoring import Scoring
from lrt_jax.serving.limits import Limits
from tests.bad_input.registry import kind
from tests.inference.stub import stub_model

ASKING = "Asking a reward model"
PIXELS = np.zeros((40, 60, 3), np.uint8)


def compare(first, second=PIXELS, caption="a red circle"):
    return stub_model()[0].compare(caption=caption, first=first, second=second)


def file_of(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


@kind(ASKING, "no such image")
def _(folder):
    compare(folder / "a.png")


@kind(ASKING, "a file that is no image")
def _(folder):
    (folder / "a.png").write_text("an image")
    compare(folder / "a.png")


@kind(ASKING, "the caption in the place of an image")
def _(folder):
    compare("a red circle")


@kind(ASKING, "an image in the place of the caption")
def _(folder):
    compare(PIXELS, caption=PIXELS)


@kind(ASKING, "an image's path in the place of the caption")
def _(folder):
    (folder / "a.png").write_bytes(file_of((40, 40)))
    compare(folder / "a.png", caption=str(folder / "a.png"))


@kind(ASKING, "pixels of which nobody knows the scale")
def _(folder):
    compare(PIXELS / 255)


@kind(ASKING, "a tensor with its channels first")
def _(folder):
    compare(PIXELS.transpose(2, 0, 1))


@kind(ASKING, "a caption that is longer than any prompt")
def _(folder):
    compare(PIXELS, caption="a red circle " * 20000)


@kind(ASKING, "no votes")
def _(folder):
    stub_model()[0].compare(caption="a", first=PIXELS, second=PIXELS, votes=0)


@kind(ASKING, "one image to rank")
def _(folder):
    stub_model()[0].rank(caption="a", images=[PIXELS])


@kind(ASKING, "an image to score, and nothing to compare it with")
def _(folder):
    stub_model()[0].score(caption="a", image=PIXELS, anchors=[])


@kind(ASKING, "a reward of one image of a caption")
def _(folder):
    PreferenceReward(stub_model()[0])([PIXELS] * 3, ["a", "b", "a"])


@kind(ASKING, "fewer captions than images")
def _(folder):
    PreferenceReward(stub_model()[0])([PIXELS] * 3, ["a", "a"])


@kind(ASKING, "rows in a kind of file that is not read")
def _(folder):
    RowsFile(folder / "rows.xlsx")


@kind(ASKING, "a file of rows that is not there")
def _(folder):
    RowsFile(folder / "rows.jsonl")


@kind(ASKING, "a table with other columns")
def _(folder):
    (folder / "rows.csv").write_text("prompt,first,second\na,a.png,b.png\n")
    RowsFile(folder / "rows.csv")


@kind(ASKING, "a row that lacks an image; in a file it keeps its place, with this beside it")
def _(folder):
    list(stub_model()[0].compare_many([{"caption": "a", "first": PIXELS}]))


@kind(ASKING, "an output of another kind")
def _(folder):
    Scoring(rows_of(folder), folder / "scores.txt", {})


@kind(ASKING, "an output that somebody else wrote")
def _(folder):
    (folder / "scores.jsonl").write_text("mine\n")
    Scoring(rows_of(folder), folder / "scores.jsonl", {}).run(lambda: stub_model()[0])


@kind(ASKING, "an output of other rows")
def _(folder):
    Scoring(rows_of(folder), folder / "scores.jsonl", {"input": "a"}).run(lambda: stub_model()[0])
    Scoring(rows_of(folder), folder / "scores.jsonl", {"input": "b"}).run(lambda: stub_model()[0])


def rows_of(folder) -> RowsFile:
    (folder / "a.png").write_bytes(file_of((40, 40)))
    row = {"caption": "a", "first": "a.png", "second": "a.png"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return RowsFile(folder / "rows.jsonl")


@kind(ASKING, "a call of the server with too many images")
def _(folder):
    Limits().check_images(65)


@kind(ASKING, "a call with too long a caption")
def _(folder):
    Limits().check_caption("a" * 5000)


@kind(ASKING, "a call with votes that are not compiled")
def _(folder):
    Limits().check_votes(8)


@kind(ASKING, "a call whose image is not in base64")
def _(folder):
    Limits().image_file("?", "first")


@kind(ASKING, "a call with a huge image")
def _(folder):
    Limits().image_file(base64.b64encode(file_of((5000, 5000))).decode(), "first")
