"""What the server answers, beside a model that is asked directly; and what it refuses."""

import concurrent.futures
import dataclasses
import io
import json
import math
import pickle
import socket
import struct
import threading
import urllib.error
import urllib.request
import zlib

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode, checks
from starlette.testclient import TestClient

from lrt_jax.inference.pictures import open_picture
from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.serving import body_limit
from lrt_jax.serving.app import make_app
from lrt_jax.serving.limits import Limits
from lrt_jax.serving.rewards import LONE, Groups
from lrt_jax.serving.service import Service
from tests.inference.stub import StubReader, stub_model, tiny_encoder
from tests.serving.running import CAPTION, Client, comparison, encoded, pixels, png, served

LIMITS = Limits(body=2**20, pixels=90 * 90, images=12, votes=(1, 3), caption=500)
FILES = [encoded(png(i)) for i in range(12)]
NOISE = [pixels(i) for i in range(12)]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return stub_model(batch_size=8)[0]


@pytest.fixture(scope="module")
def port(model):
    with served(model, LIMITS, Groups(opponents=3)) as port:
        yield port


@pytest.fixture
def client(port) -> Client:
    return Client(port)


# ---------------------------------------------------------------------------- answers


def test_a_comparison_is_that_of_the_model(client, model):
    expected = model.compare(caption=CAPTION, first=NOISE[0], second=NOISE[1])
    status, answer = client.post("/compare", comparison(0, 1))
    assert status == 200 and answer == json.loads(json.dumps(dataclasses.asdict(expected)))
    status, answer = client.post("/compare", comparison(0, 1) | {"votes": 3})
    expected = model.compare(caption=CAPTION, first=NOISE[0], second=NOISE[1], votes=3)
    assert status == 200 and answer["standard_error"] == expected.standard_error > 0


def test_a_data_url_is_an_image_too(client):
    call = comparison(0, 1)
    again = call | {"first": f"data:image/png;base64,{call['first']}"}
    assert client.post("/compare", again) == client.post("/compare", call)


def test_a_ranking_is_that_of_the_model(client, model):
    for anchors in (None, 2):
        options = {"method": "anchors", "anchors": anchors} if anchors else {}
        expected = model.rank(caption=CAPTION, images=NOISE[:5], **options)
        call = {"caption": CAPTION, "images": FILES[:5], "anchors": anchors}
        status, answer = client.post("/rank", call)
        assert status == 200
        assert answer["scores"] == list(expected.scores)
        assert answer["order"] == list(expected.order)
        assert answer["comparisons"] == expected.comparisons
        assert answer["probabilities"] == [list(row) for row in expected.probabilities]


def turn(caption: str, image: str | None) -> dict:
    history = [{"text": caption, "image_b64": image}]
    return {"history": history, "required_rewards": ["preference"], "metadata": None}


def test_requests_with_equal_text_are_a_group(client, model):
    """Those of others, and what is broken, change nothing for it."""
    broken = encoded(png(9)[:500])
    calls = [
        turn("one", FILES[0]),
        turn("two", FILES[1]),
        turn("one", FILES[2]),
        turn("two", FILES[3]),
        turn("one", broken),
        turn("one", FILES[4]),
        turn("alone", FILES[5]),
        turn("two", None),
        turn("three", FILES[6]) | {"required_rewards": []},
    ]
    status, answer = client.post("/score", {"requests": calls})
    assert status == 200
    one = model.rank(caption="one", images=[NOISE[i] for i in (0, 2, 4)]).scores
    two = model.rank(caption="two", images=[NOISE[i] for i in (1, 3)]).scores
    *results, unasked = answer["results"]
    found = [result["preference"]["preference"] for result in results]
    assert [found[i] for i in (0, 2, 5)] == list(one)
    assert [found[i] for i in (1, 3)] == list(two)
    assert all(math.isnan(found[i]) for i in (4, 6, 7))
    *errors, unasked_error = answer["errors"]
    assert unasked == unasked_error == {}
    assert [bool(x) for x in errors] == [math.isnan(x) for x in found]
    assert "image 4: truncated" in errors[4]["preference"]
    assert errors[6]["preference"] == LONE
    assert "image 7: there is none" in errors[7]["preference"]


def test_a_large_group_meets_a_few_of_its_own(client, model):
    expected = model.rank(caption=CAPTION, images=NOISE, method="anchors", anchors=3)
    call = {"prompt": [CAPTION] * 12, "image": FILES, "video": None, "kwargs": None}
    status, answer = client.post("/compute", call)
    assert status == 200 and answer == {"rewards": list(expected.scores), "reasons": [None] * 12}


def test_a_lone_image_meets_the_anchors(model):
    with served(model, groups=Groups(anchors=NOISE[6:8])) as port:
        call = {"prompt": ["one", "two"], "image": FILES[:2]}
        status, answer = Client(port).post("/compute", call)
    expected = [
        model.score(caption=text, image=image, anchors=NOISE[6:8]).score
        for text, image in zip(("one", "two"), NOISE, strict=False)
    ]
    assert status == 200 and answer["rewards"] == expected


def test_the_page_and_the_description_name_nobody_else(client):
    status, page, headers = client.get("/")
    assert status == 200 and b"http" not in page.replace(b"http-equiv", b"")
    assert "default-src 'none'" in headers["content-security-policy"]
    status, described, _ = client.get("/openapi.json")
    assert {"/compare", "/rank", "/score", "/compute", "/health"} <= {
        *json.loads(described)["paths"]
    }
    assert [client.get(path)[0] for path in ("/docs", "/redoc")] == [404, 404]
    assert json.loads(client.get("/rewards")[1]) == {"rewards": ["preference"]}
    assert json.loads(client.get("/health")[1])["votes"] == [1, 3]


# ---------------------------------------------------------------------------- many at once


class SlowReader(StubReader):
    """Answers when it may."""

    def __init__(self, batch_size: int):
        super().__init__(batch_size)
        self.may_answer = threading.Event()

    def read(self, requests, images=None, *, force=False):
        if not force:
            assert self.may_answer.wait(60)
        return super().read(requests, images)


def test_two_hundred_calls_of_several_clients_share_batches_and_are_never_mixed_up():
    reader = SlowReader(batch_size=16)
    captions = [f"{CAPTION} {i % 3}" for i in range(200)]
    calls = [comparison(i % 40, i % 7, captions[i]) for i in range(200)]
    alone = stub_model(batch_size=1)[0]
    with served(RewardModel(reader, tiny_encoder())) as port:
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            asked = [pool.submit(lambda x: Client(port).post("/compare", x), x) for x in calls]
            reader.may_answer.set()
            answers = [each.result() for each in asked]
        reader.sizes.pop(0)  # of the warm-up
    for i, (status, answer) in enumerate(answers):
        first, second = pixels(i % 40), pixels(i % 7)
        expected = alone.compare(caption=captions[i], first=first, second=second)
        assert (status, answer["probability"]) == (200, expected.probability)
    assert sum(reader.sizes) == 200 and len(reader.sizes) < 100


def test_calls_above_the_limit_are_told_to_come_again():
    reader = SlowReader(batch_size=2)
    model = RewardModel(reader, tiny_encoder())
    with served(model, Limits(calls=4)) as port, concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(Client(port).post, "/compare", comparison(0, i)) for i in range(8)]
        finished = concurrent.futures.as_completed(asked)
        refused = [next(finished).result() for _ in range(4)]  # while none can be answered
        reader.may_answer.set()
        statuses = sorted(each.result()[0] for each in asked)
    assert all(status == 503 and "--max_calls" in answer["detail"] for status, answer in refused)
    assert statuses == [200] * 4 + [503] * 4


class FailingReader(StubReader):
    """Cannot read one image."""

    def read(self, requests, images=None, *, force=False):
        bad = open_picture(pixels(0), "bad").digest
        if any(image.digest == bad for request in requests for image in request.images):
            raise FloatingPointError("not finite")
        return super().read(requests, images)


def test_a_batch_that_fails_is_a_500_and_the_next_one_is_answered():
    with served(RewardModel(FailingReader(1), tiny_encoder())) as port:
        client = Client(port)
        status, answer = client.post("/compare", comparison(0, 1))
        assert status == 500 and "not finite" in answer["detail"]
        assert client.post("/compare", comparison(1, 2))[0] == 200


def test_nothing_is_answered_before_the_model_is_ready():
    service = Service(lambda: pytest.fail("nobody opened it"), Limits())
    client = TestClient(make_app(service))  # not entered, so that nothing is opened
    assert client.get("/health").status_code == 503
    refused = client.post("/compare", json=comparison(0, 1))
    assert refused.status_code == 503 and refused.headers["Retry-After"]


# ---------------------------------------------------------------------------- what is refused


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG file of a few bytes that says how many pixels it has."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def image_file(kind: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


HOSTILE = {
    "no image": (b"hello", "not an image"),
    "nothing": (b"", "empty file"),
    "a pickle": (pickle.dumps({"a": 1}), "not an image"),
    "cut off": (png(0)[:300], "truncated"),
    "a bomb": (bomb(60_000), "too many pixels"),
    "a small bomb": (bomb(5_000), "--max_pixels"),
    "a program for Ghostscript": (image_file("EPS", (40, 40)), "not an image"),
    "a vector": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "a line": (image_file("PNG", (3000, 2)), "smaller than one patch"),
    "a dot": (image_file("GIF", (1, 1)), "smaller than one patch"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_images_are_refused(client, kind):
    data, told = HOSTILE[kind]
    status, answer = client.post("/compare", comparison(0, 1) | {"second": encoded(data)})
    assert status == 422 and told in answer["detail"] and answer["detail"].startswith("second")
    status, answer = client.post("/rank", {"caption": "", "images": [FILES[0], encoded(data)]})
    assert status == 422 and told in answer["detail"]
    status, answer = client.post("/compute", {"prompt": [""] * 2, "image": [encoded(data)] * 2})
    assert status == 200 and all(told in reason for reason in answer["reasons"])


BAD_CALLS = {
    "no JSON": (b"{", 422, "JSON"),
    "bytes that are no text": (b"\xff{", 400, "body"),
    "nested without end": (b"[" * 100_000, 400, "body"),
    "a number without end": (b'{"votes": ' + b"9" * 10_000 + b"}", 400, "body"),
    "nothing": (b"", 422, "body"),
    "a list": ([], 422, "body"),
    "no fields": ({}, 422, "body.caption"),
    "a field too many": (comparison(0, 1) | {"vote": 1}, 422, "body.vote"),
    "a number for an image": (comparison(0, 1) | {"first": 3}, 422, "body.first"),
    "no number": (b'{"caption": "", "first": NaN, "second": 1e999}', 422, "body.first"),
    "half a character": (
        comparison(0, 1) | {"caption": "\ud800"},
        422,
        "caption: no text that Unicode",
    ),
    "half a character for a name": (comparison(0, 1) | {"\ud800": 1}, 422, "body"),
    "a zero": (comparison(0, 1) | {"caption": "a\0b"}, 200, None),
    "no base64": (comparison(0, 1) | {"first": "§"}, 422, "first: no base64"),
    "a path": (comparison(0, 1) | {"first": "/etc/passwd"}, 422, "first: no"),
    "votes that are not compiled": (comparison(0, 1) | {"votes": 2}, 422, "--votes"),
    "no votes": (comparison(0, 1) | {"votes": 0}, 422, "body.votes"),
    "a long caption": (comparison(0, 1) | {"caption": "a" * 501}, 422, "--max_caption"),
    "a body that is too long": (b" " * (2**20 + 1), 413, "--max_body"),
}


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_bad_calls_are_told_what_is_wrong(client, kind):
    body, expected, told = BAD_CALLS[kind]
    status, answer = client.post("/compare", body)
    assert status == expected and (told is None or told in answer["detail"]), answer
    assert client.post("/compare", comparison(0, 1))[0] == 200


def test_a_client_that_sends_all_before_it_listens_is_told_too(port):
    """And closes its connection afterwards, as urllib does: until then the server must not."""
    address = f"http://127.0.0.1:{port}/compare"
    call = urllib.request.Request(address, b" " * 2**26, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(call)


def test_a_call_that_stops_in_the_middle_is_given_up(port, monkeypatch):
    monkeypatch.setattr(body_limit, "SILENCE", 0.1)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        connection.sendall(f"POST /compare HTTP/1.1\r\nHost: here\r\n{head}".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_more_images_than_a_call_may_have_are_refused(client):
    many = [*FILES, FILES[0]]
    calls = {
        "/rank": {"caption": CAPTION, "images": many},
        "/compute": {"prompt": [CAPTION] * 13, "image": many},
        "/score": {"requests": [turn(CAPTION, x) for x in many]},
    }
    for path, call in calls.items():
        status, answer = client.post(path, call)
        assert status == 400 and "--max_images" in answer["detail"]


def test_what_rewards_cannot_tell_is_refused(client):
    other = turn(CAPTION, FILES[0]) | {"required_rewards": ["clip"]}
    status, answer = client.post("/score", {"requests": [other]})
    assert status == 422 and "'clip' is not served, but 'preference'" in answer["detail"]
    group = {"prompt": [CAPTION] * 2, "image": FILES[:2]}
    for field in ("video", "condition_images", "kwargs"):
        status, answer = client.post("/compute", group | {field: [[FILES[0]]]})
        assert status == 422 and f"body.{field}" in answer["detail"]
    status, answer = client.post("/compute", group | {"prompt": [CAPTION]})
    assert status == 422 and "1 prompts for 2 images" in answer["detail"]


DESCRIBED = schemathesis.openapi.from_dict(make_app(Service(stub_model, LIMITS)).openapi())
OPERATIONS = {each.ok().label: each.ok() for each in DESCRIBED.get_all_operations()}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_calls_made_at_random_never_break_the_server(operation, port):
    """Those that fit the server's own description, and those that do not."""

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(
        st.one_of(
            OPERATIONS[operation].as_strategy(generation_mode=mode) for mode in GenerationMode
        )
    )
    def ask(case):
        expected = (checks.not_a_server_error, checks.response_schema_conformance)
        case.call_and_validate(base_url=f"http://127.0.0.1:{port}", checks=expected)

    ask()
    assert Client(port).post("/compare", comparison(0, 1))[0] == 200
