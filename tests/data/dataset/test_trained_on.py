"""What a model was trained on is known again in other sets, by images and by pairs."""

import numpy as np
import pytest

from lrt_jax.data.dataset.keys import image_key, pair_key
from lrt_jax.data.dataset.mixture import MixedSet
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.dataset.trained_on import TrainedOn
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.storage.digests import sealed
from lrt_jax.training.files import write_json
from tests.data.own_folder import own_folder
from tests.data.preparation.test_near_duplicates import landscape

ROWS = [
    (f"{name} on a hill", landscape(2 * i), landscape(2 * i + 1)) for i, name in enumerate("ab")
]


def prepared_of(folder, rows):
    rows = [(*row, {"split": "train"}) for row in rows]
    prepare("folder", own_folder(folder / "in", rows), folder / "out", near_duplicates="keep")
    return PreparedSet(folder / "out")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return prepared_of(tmp_path_factory.mktemp("trained"), ROWS)


def test_pairs_and_images_are_known_in_another_set_and_order(trained, tmp_path):
    (caption, one, other), (_, third, _) = ROWS
    rows = [
        (caption.upper() + "!", other, one),  # the pair
        ("another caption", third, landscape(8)),  # one of its images
        (caption, landscape(9), landscape(10)),  # its words alone
    ]
    evaluated = prepared_of(tmp_path, rows)
    assert evaluated.fingerprint != trained.fingerprint
    digests = TrainedOn.of(trained, np.arange(2))
    pairs, images = digests.seen(evaluated, np.arange(3))
    assert pairs.tolist() == [True, False, False]
    assert images.tolist() == [True, True, False]
    of_one = TrainedOn.of(trained, np.arange(1))
    assert [x.tolist() for x in of_one.seen(evaluated, np.arange(3))] == [[True, False, False]] * 2
    mixed = MixedSet((evaluated, trained), (1.0, 1.0))
    assert digests.seen(mixed, np.array([4, 2, 1, 3]))[0].tolist() == [True, False, False, True]


def test_digests_survive_their_file(trained, tmp_path):
    digests = TrainedOn.of(trained, np.arange(2))
    write_json(tmp_path / "t.json", sealed(digests.to_json()))
    again = TrainedOn.read(tmp_path / "t.json")
    np.testing.assert_array_equal(again.images, digests.images)
    np.testing.assert_array_equal(again.pairs, digests.pairs)
    assert (len(again.images), len(again.pairs)) == (4, 2)
    both = digests | TrainedOn(np.array([5], np.uint64), np.array([], np.uint64))
    assert len(both.images) == 5 and len(both.pairs) == 2


def test_a_file_that_holds_something_else_is_named(tmp_path):
    write_json(tmp_path / "t.json", sealed({"images": "no", "pairs": "AAA"}))
    with pytest.raises(ValueError, match="t.json: cannot be used .*padding.*export the model anew"):
        TrainedOn.read(tmp_path / "t.json")


def test_digests_without_their_seal_are_named(trained, tmp_path):
    content = dict(TrainedOn.of(trained, np.arange(2)).to_json())
    write_json(tmp_path / "t.json", content | {"pairs": ""})
    with pytest.raises(ValueError, match="t.json: cannot be used .*has no sha256.*export the mode"):
        TrainedOn.read(tmp_path / "t.json")


def test_keys_are_of_64_bits(trained):
    assert image_key("f" * 64) == 2**64 - 1
    assert pair_key("A cat.", ["x", "y"]) == pair_key("a cat", ["y", "x"]) < 2**64
    assert pair_key("a cat", ["x", "y"]) != pair_key("a dog", ["x", "y"])
    keys = [trained.image(i).key for i in range(4)]
    assert trained.image_keys.tolist() == [image_key(key) for key in keys]
