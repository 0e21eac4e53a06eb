"""Rankings of comparisons: scores, circles, and who meets whom."""

import pytest

from lrt_jax.inference.results import Reading, compared
from lrt_jax.inference.tournament import (
    all_pairs,
    anchor_pairs,
    choose_anchors,
    cycles,
    ranking,
)


def ranked(probabilities: dict, count: int, anchors=None):
    verdicts = {}
    for pair, p in probabilities.items():
        reading = Reading(False, "", p, p > 0.5)
        verdicts[pair] = compared([reading], [reading])
    return ranking(count, verdicts, anchors)


def test_scores_are_mean_probabilities_to_win():
    result = ranked({(0, 1): 0.25, (0, 2): 0.5, (1, 2): 0.75}, 3)
    assert result.scores == (0.375, 0.75, 0.375)
    assert result.order == (1, 0, 2)  # of equals the one given first
    assert result.probabilities[1] == (0.75, None, 0.75)
    assert result.comparisons == 3 and result.cycles == ()


def test_against_anchors_all_scores_are_of_the_same_opponents():
    result = ranked({(0, 1): 0.25, (1, 2): 0.75, (1, 3): 1.0, (2, 3): 0.5, (0, 3): 0.5}, 4, [1, 3])
    assert result.scores == (0.375, 0.75, 0.375, 0.25)
    assert result.probabilities[0][2] is None


def test_circles_are_found():
    circle = {(0, 1): 0.75, (1, 2): 0.75, (0, 2): 0.25}
    assert ranked(circle, 3).cycles == ((0, 1, 2),)
    beaten_by_all = circle | {(0, 3): 0.9, (1, 3): 0.9, (2, 3): 0.9}
    assert ranked(beaten_by_all, 4).cycles == ((0, 1, 2),)
    assert cycles([[None, 0.5], [0.5, None]]) == ()  # equals beat nobody


@pytest.mark.parametrize("anchors, comparisons", [(1, 7), (2, 13), (4, 22), (8, 28)])
def test_anchors_make_few_comparisons(anchors, comparisons):
    pairs = anchor_pairs(8, range(anchors))
    assert len(pairs) == comparisons == len(set(pairs)) and set(pairs) <= set(all_pairs(8))


def test_anchors_are_the_same_images_in_whatever_order():
    digests = [bytes([x]) for x in (7, 3, 9, 1)]
    assert choose_anchors(digests, 2) == [1, 3]
    assert choose_anchors(digests[::-1], 2) == [0, 2]
    assert choose_anchors(digests, 9) == [0, 1, 2, 3]
