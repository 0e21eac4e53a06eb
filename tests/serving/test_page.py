"""The page as people use it, in a real browser."""

from pathlib import Path

import pytest

from lrt_jax.inference.results import Comparison, Reading
from lrt_jax.inference.reward_model import RewardModel
from tests.inference.stub import StubReader, tiny_encoder
from tests.serving.chromium import Page, browsing, find_chromium
from tests.serving.running import png, served

HOSTILE = '<img src=http://example.com/x onerror=document.body.remove()> & "quotes"'
GIVEN = Reading(False, HOSTILE, 0.75, True, False, 0.25, True)
SWAPPED = Reading(True, "because it is red", 0.5625, True, True, 0.9375, False)
VERDICT = Comparison(0.65625, None, 1.0, 0.25, True, ((GIVEN,), (SWAPPED,)))


class Knowing(StubReader):
    """Always says the same, and counts who asked."""

    def read(self, requests, images=None, *, force=False):
        self.sizes.append(len(requests))
        return [VERDICT] * len(requests)


@pytest.fixture(scope="module")
def reader() -> Knowing:
    return Knowing()


@pytest.fixture(scope="module")
def page(reader, tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("there is no chromium; on Debian: apt-get install chromium")
    model = RewardModel(reader, tiny_encoder())
    with served(model) as port, browsing(tmp_path_factory.mktemp("profile")) as page:
        page.address = f"http://127.0.0.1:{port}/"
        yield page


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for seed, path in enumerate(paths):
        path.write_bytes(png(seed))
    return paths


def compare(page: Page, files: list[Path]) -> None:
    page.open(page.address)
    page.run("document.querySelector('#caption').value = 'a red circle'")
    for side, file in zip(("first", "second"), files, strict=True):
        page.choose_file(f"#{side} input", file)
    page.until("document.querySelectorAll('.drop img').length === 2")
    page.run("document.querySelector('button').click()")


def text(page: Page, selector: str) -> str:
    return page.run(f"document.querySelector('{selector}').innerText")


def test_two_pictures_get_a_verdict(page, files):
    compare(page, files)
    page.until("!document.querySelector('#verdict').hidden")
    assert text(page, "h2") == "People would prefer the first picture"
    assert text(page, ".bar").split() == ["65.6", "%", "34.4", "%"]
    assert page.run("[...document.querySelectorAll('.won')].map(x => x.id)") == ["first"]
    facts = text(page, "#facts")
    assert "both orders agree" in facts and "listener: 25.0 %" in facts
    assert "The listener contradicts the verdict" in facts


def test_reasons_are_shown_as_text_and_contradictions_are_marked(page, files):
    compare(page, files)
    page.until("!document.querySelector('#verdict').hidden")
    cards = page.run("[...document.querySelectorAll('.reading')].map(x => x.innerText)")
    assert HOSTILE in cards[0] and "first picture shown first" in cards[0]
    assert "because it is red" in cards[1] and "second picture shown first" in cards[1]
    assert "ended without an answer" in cards[1]
    marked = page.run(
        "[...document.querySelectorAll('.reading')].map(x => x.matches('.contradicts'))"
    )
    assert marked == [True, False]
    assert page.run("document.querySelectorAll('#verdict img').length") == 0


def test_what_is_wrong_is_said_on_the_page(page, files):
    files[1].write_bytes(b"no picture")
    compare(page, files)
    page.until("document.querySelector('#problem').innerText")
    assert text(page, "#problem").startswith("second: not an image")
    assert page.run("document.querySelector('#verdict').hidden")


def test_nothing_leaves_this_machine(page, files, reader):
    before = len(reader.sizes)
    page.requested.clear()
    page.problems.clear()
    compare(page, files)
    page.until("!document.querySelector('#verdict').hidden")
    assert len(reader.sizes) == before + 1
    asked = {address for address in page.requested if not address.startswith(("blob:", "data:"))}
    assert asked == {page.address, f"{page.address}compare"}
    assert page.problems == []
