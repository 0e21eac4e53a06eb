"""Every figure against a few rows counted by hand, and intervals against known distributions."""

import dataclasses
import json

import numpy as np
import pytest

from lrt_jax.evaluation import metrics
from lrt_jax.evaluation.predictions import Predictions

NAN = np.nan
DTYPES = dict(
    pair=np.int64,
    cluster=np.int64,
    swapped=bool,
    choice=np.int8,
    p_first=np.float32,
    listener_p_first=np.float32,
    target=np.float32,
    margin=np.float32,
)


def judge(rows, **columns):
    """Judgements from tuples in the order of the fields; each cluster is one prompt."""
    values = zip(*rows, strict=True) if rows else ([] for _ in DTYPES)
    named = zip(DTYPES.items(), values, strict=True)
    made = Predictions(**{name: np.array(list(c), dtype) for (name, dtype), c in named})
    return dataclasses.replace(made, **{"prompt": made.cluster} | columns)


@pytest.fixture
def judgements():
    """Five pairs of three prompts, both orders; pair 3 is a human tie, one answer is unreadable."""
    return judge(
        [
            # pair, cluster, swapped, choice, p_first, listener, target, margin
            (0, 10, False, 0, 0.93, 0.80, 1.0, 1.0),  # right
            (0, 10, True, 1, 0.24, 0.30, 0.0, 1.0),  # right, consistent
            (1, 10, False, 0, 0.74, 0.40, 0.2, 0.6),  # wrong; listener contradicts, mildly
            (1, 10, True, 0, 0.62, 0.90, 0.8, 0.6),  # right; inconsistent: the first place twice
            (2, 20, False, 1, 0.43, 0.70, 0.4, 0.2),  # right; listener contradicts, confidently
            (2, 20, True, -1, NAN, 0.60, 0.6, 0.2),  # unreadable
            (3, 20, False, 0, 0.8, 0.55, 0.5, 0.0),  # human tie
            (3, 20, True, 1, 0.3, NAN, 0.5, 0.0),  # human tie, no listener
            (4, 30, False, 1, 0.5, 0.50, 1.0, 1.0),  # wrong; listener undecided
            (4, 30, True, 1, 0.5, 0.20, 0.0, 1.0),  # right
        ]
    )


def test_headline_drops_ties_and_counts_the_unreadable_wrong(judgements):
    assert metrics.accuracy(judgements) == pytest.approx(5 / 8)
    assert metrics.macro_accuracy(judgements) == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3)


def test_listener_confidence_is_in_the_preferred_image(judgements):
    # Tied rows and the unreadable row are left out.
    expected = np.mean([0.8, 0.7, 0.6, 0.9, 0.3, 0.5, 0.8])
    got = metrics.summarise(judgements)["listener_confidence"]
    assert got == pytest.approx(expected)


def test_three_forms_of_contradiction(judgements):
    got = metrics.summarise(judgements)
    own = np.array([0.8, 0.7, 0.4, 0.9, 0.3, 0.55, 0.5, 0.8])
    assert got["contradiction_judgements"] == 8
    assert got["contradiction_rate"] == pytest.approx(2 / 8)  # one half contradicts nobody
    assert got["contradiction_rate_confident"] == pytest.approx(1 / 8)
    assert got["contradiction_soft"] == pytest.approx((1 - own).mean())
    assert got["accuracy_with_contradiction"] == pytest.approx(1 / 2)
    assert got["accuracy_without_contradiction"] == pytest.approx(4 / 5)


def test_a_listener_is_right_where_it_prefers_the_image_with_more_votes(judgements):
    """Ties and answers that cannot be read are left out; at one half it prefers none, and errs."""
    got = metrics.summarise(judgements)
    right = [True, True, True, True, False, False, True]  # pairs 0, 1, 2 and 4, row by row
    assert got["listener_accuracy"] == pytest.approx(np.mean(right))
    assert got["listener_accuracy_alone"] is None and got["held_out_accuracy"] is None


def test_a_listener_without_a_trace_is_asked_of_every_pair_but_ties(judgements):
    alone = np.array([0.9, 0.9, 0.1, 0.9, 0.5, 0.9, 0.9, 0.9, 0.2, 0.2], np.float32)
    asked = dataclasses.replace(judgements, listener_alone=alone, held_out_alone=1 - alone)
    got = metrics.summarise(asked)
    # The unreadable row counts too; at one half neither listener is right.
    assert got["listener_accuracy_alone"] == pytest.approx(5 / 8)
    assert got["held_out_accuracy_alone"] == pytest.approx(2 / 8)


def test_the_held_out_listener_contradicts_by_its_own_probabilities(judgements):
    said = np.array([0.9, 0.9, 0.1, 0.6, 0.8, NAN, 0.9, 0.9, 0.5, 0.2], np.float32)
    got = metrics.summarise(dataclasses.replace(judgements, held_out_p_first=said))
    own = np.array([0.9, 0.1, 0.1, 0.6, 0.2, 0.9, 0.1, 0.5, 0.8])  # of the choice
    assert got["held_out_contradiction_rate"] == pytest.approx(4 / 9)
    assert got["held_out_contradiction_soft"] == pytest.approx(1 - own.mean())
    assert got["held_out_accuracy"] == pytest.approx(4 / 7)
    without = metrics.summarise(judgements)
    assert got["contradiction_rate"] == without["contradiction_rate"]


def test_swap_consistency_needs_both_orders_readable(judgements):
    # Same image: 0 and 3; the same place, so other images: 1 and 4; pair 2 lacks one answer.
    got = metrics.swap_consistency(judgements)
    assert got == {"swap_consistency": pytest.approx(2 / 4), "swap_pairs": 4}


def test_reward_model_averages_both_orders(judgements):
    # p of the stored first image: .845 right, .56 wrong, (.43 + .5)/2 right, tie dropped,
    # .5 a predicted tie: wrong. One order of the third cannot be read: wrong.
    got = metrics.accuracy_of_two_orders(judgements)
    assert got == {"accuracy_two_orders": pytest.approx(1 / 4), "two_orders_unread": 1}


@pytest.mark.parametrize("choice, p_first", [(-1, NAN), (-1, 0.9), (0, NAN)])
def test_reward_model_that_reads_one_order_only_is_never_right(choice, p_first):
    """The other order, right everywhere, is not taken for both."""
    rows = [(i, i, False, 0, 0.9, NAN, 1.0, 1.0) for i in range(4)]
    rows += [(i, i, True, choice, p_first, NAN, 0.0, 1.0) for i in range(4)]
    got = metrics.accuracy_of_two_orders(judge(rows))
    assert got == {"accuracy_two_orders": 0.0, "two_orders_unread": 4}
    assert metrics.accuracy(judge(rows)) == 0.5
    # Of pairs whose people disagree nothing is wrong, nor is it counted.
    tied = judge([(*row[:6], 0.5, 0.0) for row in rows])
    assert metrics.accuracy_of_two_orders(tied) == {
        "accuracy_two_orders": None,
        "two_orders_unread": 0,
    }


def test_reward_model_of_a_judge_that_follows_the_position():
    rows = [
        (i, i, bool(s), 0, p, NAN, float(i % 2 != s), 1.0)
        for i, p in enumerate([0.9, 0.1, 0.73, 0.6])
        for s in (0, 1)
    ]
    assert metrics.accuracy(judge(rows)) == 0.5
    got = metrics.accuracy_of_two_orders(judge(rows))
    assert got == {"accuracy_two_orders": 0.0, "two_orders_unread": 0}
    assert metrics.swap_consistency(judge(rows))["swap_consistency"] == 0.0


def test_accuracy_by_margin_keeps_a_fifth_in_its_bin(judgements):
    bins = metrics.accuracy_by_margin(judgements)
    assert [b["count"] for b in bins] == [2, 0, 2, 0, 4]
    assert [b["accuracy"] for b in bins] == [0.5, None, 0.5, None, 0.75]
    assert (bins[0]["low"], bins[-1]["high"]) == (0.0, 1.0)


def test_accuracy_by_listener_certainty(judgements):
    bins = metrics.accuracy_by_listener_certainty(judgements)
    assert [b["count"] for b in bins] == [1, 1, 4, 1]  # .5 | .4 | .8 .3 .7 .2 | .9
    assert [b["accuracy"] for b in bins] == [0.0, 0.0, 1.0, 1.0]


def test_tie_rules(judgements):
    rules = metrics.accuracy_by_tie_rule(judgements)
    assert rules["drop"]["micro"] == metrics.accuracy(judgements)
    assert rules["drop"]["macro"] == metrics.macro_accuracy(judgements)
    assert rules["hpdv2"] == {"micro": None, "macro": None}  # nobody knows any ranks
    assert rules["half_credit"]["micro"] == pytest.approx(6 / 10)
    assert rules["half_credit"]["macro"] == pytest.approx((3 / 4 + 2 / 4 + 1 / 2) / 3)


def test_the_inversion_score_is_of_mean_ranks_and_instances(judgements):
    """Pair 1 is ranked the other way than the votes say, pair 4 is a tie of ranks."""
    lead = np.array([1, -1, 0.1, -0.1, -2, 2, NAN, NAN, 0, 0], np.float32)
    group = np.array([5, 5, 6, 6, 6, 6, 6, 6, 6, 6])
    ranked = dataclasses.replace(judgements, rank_lead=lead, group=group)
    got = metrics.accuracy_by_tie_rule(ranked)["hpdv2"]
    # right, right | right, wrong | right, unread | no ranks | ties of ranks
    assert got["micro"] == pytest.approx((2 + 1 + 1 + 2) / 8)
    assert got["macro"] == pytest.approx((2 / 2 + 4 / 6) / 2)
    unread = dataclasses.replace(ranked, choice=np.full(10, -1, np.int8))
    assert metrics.accuracy_by_tie_rule(unread)["hpdv2"]["micro"] == 0.0


def test_macro_is_over_prompts_and_its_interval_over_clusters():
    """Of each two clusters one has a prompt right and one half right, one a third right."""
    six = [(0, 0), (1, 0), (1, 0), (2, 1), (2, 1), (2, 1)]  # prompt, cluster
    places = [(p + 3 * k, c + 2 * k) for k in range(5) for p, c in six]
    rows = [(i, c, False, i % 2, NAN, NAN, 1.0, 1.0) for i, (_, c) in enumerate(places)]
    judged = judge(rows, prompt=np.array([p for p, _ in places]))
    assert metrics.macro_accuracy(judged) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert metrics.accuracy_by_tie_rule(judged)["drop"]["macro"] == metrics.macro_accuracy(judged)
    interval = metrics.summarise(judged)["accuracy_macro_ci95"]
    means, clusters = np.tile([1, 1 / 2, 1 / 3], 5), np.repeat(np.arange(10), [2, 1] * 5)
    assert interval == pytest.approx(metrics.cluster_bootstrap(means, np.ones(15), clusters))
    assert interval != metrics.cluster_bootstrap(means, np.ones(15), np.arange(15))
    unknown = metrics.summarise(dataclasses.replace(judged, prompt=None))
    assert unknown["accuracy_macro"] is None and unknown["accuracy_macro_ci95"] is None


@pytest.mark.parametrize(
    "rule, scores",
    [
        # human: first, first, first, first, tie, tie, tie; predicted: see below
        ("drop", [1, 0, 0, 0, None, None, None]),
        ("hpdv2", [1, 0.5, 0, 0, 1, 1, 0]),  # where the ranks say what the votes say
        ("half_credit", [1, 0.5, 0, 0, 0.5, 1, 0]),
    ],
)
def test_tie_rules_case_by_case(rule, scores):
    predicted = np.array([1, 0.5, 0, NAN, 1, 0.5, NAN])
    score, valid = metrics.TIE_RULES[rule].score(predicted, np.array([1, 1, 1, 1, 0.5, 0.5, 0.5]))
    assert [float(s) if v else None for s, v in zip(score, valid, strict=True)] == scores


def test_outcomes_and_tuned_threshold():
    p = np.array([0.9, 0.56, 0.45, 0.1, 0.53, NAN])
    target = np.array([1.0, 0.5, 0.5, 0.0, 0.5, 0.5])
    np.testing.assert_array_equal(metrics.outcomes(p, 0.07), [1, 0.5, 0.5, 0, 0.5, NAN])
    np.testing.assert_array_equal(metrics.outcomes(p), [1, 1, 0, 0, 1, NAN])
    threshold = metrics.tune_tie_threshold(p, target)
    assert 0.06 <= threshold < 0.4
    assert metrics.tune_tie_threshold(p, np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])) == 0.0


def test_calibration_by_hand(judgements):
    got = metrics.calibration(judgements)
    p = np.array([0.93, 0.24, 0.74, 0.62, 0.43, 0.5, 0.5])
    label = np.array([1, 0, 0, 1, 0, 1, 0])
    votes = np.array([1, 0, 0.2, 0.8, 0.4, 1, 0])
    assert got["count"] == 7
    assert got["brier"] == pytest.approx(((p - label) ** 2).mean())
    squares = np.append((p - votes) ** 2, [(0.8 - 0.5) ** 2, (0.3 - 0.5) ** 2])
    assert got["brier_votes"] == pytest.approx(squares.mean())
    assert got["ece"] == pytest.approx((0.07 + 0.24 + 0.74 + 0.38 + 0.43 + 2 * 0.0) / 7)
    assert sum(b["count"] for b in got["reliability"]) == 7
    filled = got["reliability"][5]
    assert (filled["count"], filled["predicted"], filled["observed"]) == (2, 0.5, 0.5)


def test_calibration_of_a_perfect_forecaster():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 20_000)
    target = (rng.uniform(size=p.size) < p).astype(float)
    rows = [
        (i, i, False, 0, q, NAN, t, 1.0) for i, (q, t) in enumerate(zip(p, target, strict=True))
    ]
    got = metrics.calibration(judge(rows))
    assert got["ece"] < 0.015
    assert got["brier"] == pytest.approx(1 / 6, abs=0.01)  # E[p (1 - p)]
    assert len(got["reliability"]) == 10


def test_certainty_of_one_falls_in_the_last_bin():
    rows = [(0, 0, False, 0, 1.0, NAN, 1.0, 1.0), (1, 1, False, 1, 0.0, NAN, 0.0, 1.0)]
    curve = metrics.calibration(judge(rows))["reliability"]
    assert [b["count"] for b in curve] == [1] + [0] * 8 + [1]


# Intervals


def test_interval_of_independent_rows_is_the_binomial_one():
    rng = np.random.default_rng(0)
    values = rng.uniform(size=4000) < 0.7
    low, high = metrics.cluster_bootstrap(values, np.ones(4000), np.arange(4000), seed=1)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 4000)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.002)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)


def test_interval_of_two_orders_is_over_clusters_of_pairs():
    """As many rows of a pair as there are orders tell no more than one."""
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.7
    rows = [
        (pair, pair // 3, turned, 0, good if not turned else 1 - good, NAN, 1.0 - turned, 1.0)
        for pair, good in enumerate(np.where(right, 0.9, 0.1))
        for turned in (False, True)
    ]
    got = metrics.summarise(judge(rows))
    assert got["accuracy_two_orders"] == pytest.approx(right.mean())
    by_pair = metrics.cluster_bootstrap(right.astype(float), np.ones(300), np.arange(300) // 3)
    assert got["accuracy_two_orders_ci95"] == pytest.approx(by_pair)


def test_change_of_two_orders_and_of_the_unparsed_is_paired(judgements):
    """Pair 4 is decided rightly after; pair 2 can be read after and is then right."""
    p_first = judgements.p_first.copy()
    p_first[5], p_first[8] = 0.8, 0.7
    choice = judgements.choice.copy()
    choice[5] = 0
    after = dataclasses.replace(judgements, choice=choice, p_first=p_first)
    gain = metrics.paired_gain(judgements, after, "accuracy_two_orders")
    assert (gain.gain, gain.paired, gain.unpaired) == (0.5, 4, 0)
    unparsed = metrics.paired_gain(judgements, permuted(after), "unparsed_share")
    assert (unparsed.gain, unparsed.paired, unparsed.unpaired) == (pytest.approx(-0.1), 10, 0)


def test_interval_widens_with_the_rows_that_go_together():
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(400), 10)
    values = (rng.uniform(size=400) < 0.7)[cluster]
    low, high = metrics.cluster_bootstrap(values, np.ones(4000), cluster)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.7 * 0.3 / 400), rel=0.1)


def test_interval_covers_at_its_rate():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        rates = rng.beta(4, 2, 60)  # mean 2/3
        values = rng.uniform(size=(60, 5)) < rates[:, None]
        cluster = np.repeat(np.arange(60), 5)
        interval = metrics.cluster_bootstrap(
            values.ravel(), np.ones(300), cluster, n=500, seed=trial
        )
        hits += interval[0] <= 2 / 3 <= interval[1]
    assert 0.89 <= hits / 200 <= 0.98


def test_interval_ignores_what_has_no_weight_and_repeats_with_its_seed():
    values = np.tile([1.0, 0.0, 1.0, NAN, 1.0, 0.0], 4)
    weights = np.tile([1, 1, 2, 0, 1, 1], 4)
    cluster = np.repeat(10 * np.arange(4), 6) + np.tile([7, 7, 3, 5, 9, 9], 4)
    first = metrics.cluster_bootstrap(values, weights, cluster, seed=3)
    kept = weights > 0
    again = metrics.cluster_bootstrap(values[kept], weights[kept], cluster[kept], seed=3)
    assert first == again and 0 <= first[0] < first[1] <= 1
    assert first != metrics.cluster_bootstrap(values, weights, cluster, n=7, seed=4)


def test_resamples_are_drawn_in_blocks():
    cluster = np.arange(300_000)  # more clusters than one block of resamples holds
    values = np.arange(300_000) % 2
    low, high = metrics.cluster_bootstrap(values, np.ones(300_000), cluster, n=20)
    assert low < 0.5 < high and high - low < 0.01


@pytest.mark.parametrize("clusters", [0, 1, 2, 9, 10])
def test_few_clusters_have_no_interval(clusters):
    """Not [.5, .5] of two pairs, one right and one wrong in each order."""
    cluster = np.append(np.repeat(np.arange(clusters), 2), 99)
    values = np.append(np.tile([0, 1], clusters), 1)
    weights = np.append(np.ones(2 * clusters), 0)  # the last cluster does not count
    interval = metrics.cluster_bootstrap(values, weights, cluster)
    assert interval == ([0.5, 0.5] if clusters == 10 else None)


def simulated(accuracy, seed, prompts=150):
    """Correct with the given rate, hard prompts hard in both orders and for every judge."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(99)
    hard = shared.normal(0, 0.2, prompts)
    rows = []
    for i in range(prompts * 2):
        right = rng.uniform(size=2) < np.clip(accuracy + hard[i // 2], 0, 1)
        rows += [
            (i, i // 2, bool(s), 0 if r != s else 1, NAN, NAN, 1.0 - s, 1.0)
            for s, r in enumerate(right)
        ]
    return judge(rows)


def permuted(judgements, seed=0):
    return rows_of(judgements, np.random.default_rng(seed).permutation(len(judgements.pair)))


def rows_of(judgements, rows):
    """Some rows, in an order."""
    columns = vars(judgements).items()
    return Predictions(**{name: c if c is None else c[rows] for name, c in columns})


def test_intervals_are_the_same_wherever_they_are_computed():
    """Published ones were drawn with seed 0; another seed would change their last digits."""
    judged = simulated(0.7, seed=3)
    summary = metrics.summarise(judged)
    assert summary == metrics.summarise(judged, draws=2000, seed=0)
    assert summary["accuracy_ci95"] != metrics.summarise(judged, seed=1)["accuracy_ci95"]


def test_paired_gain():
    before, after = simulated(0.6, 1), simulated(0.75, 2)
    gain = metrics.accuracy(after) - metrics.accuracy(before)
    got, (low, high), paired, unpaired = metrics.paired_gain(before, permuted(after))
    assert (paired, unpaired) == (600, 0)
    assert got == pytest.approx(gain)
    assert 0 < low < gain < high
    apart = [metrics.summarise(j)["accuracy_ci95"] for j in (before, after)]
    unpaired = np.hypot(*(b - a for a, b in apart))
    assert high - low < unpaired  # hard prompts cancel
    assert metrics.paired_gain(before, permuted(before)) == (0.0, [0.0, 0.0], 600, 0)


@pytest.mark.parametrize("name, value", [("pair", 77), ("target", 0.3), ("cluster", 77)])
def test_paired_gain_of_other_rows(judgements, name, value):
    column = getattr(judgements, name).copy()
    column[0] = value
    other = dataclasses.replace(judgements, **{name: column})
    for theirs in (other, permuted(other), rows_of(judgements, slice(9))):
        with pytest.raises(ValueError, match="not the same rows"):
            metrics.paired_gain(judgements, theirs)


def test_paired_gain_in_what_not_every_row_has(judgements):
    before = dataclasses.replace(judgements, trace_truth=np.linspace(0, 0.9, 10, dtype=np.float32))
    after = dataclasses.replace(before, trace_truth=before.trace_truth + np.float32(0.1))
    after.trace_truth[3] = np.nan
    before.trace_truth[[4, 5]] = np.nan
    gain = metrics.paired_gain(before, after, "trace_truth")
    assert gain == (pytest.approx(0.1), None, 7, 3)  # of three prompts, and no interval
    assert metrics.paired_gain(judgements, judgements, "trace_truth") == (None, None, 0, 0)


# The whole


def test_pairs_with_bars_are_reported_apart(judgements):
    named = ("accuracy_letterboxed", "letterboxed_judgements")
    assert [metrics.summarise(judgements)[name] for name in named] == [None, 0]
    among = np.isin(judgements.pair, (0, 1, 3))  # three of four are right; pair 3 is a tie
    shown = dataclasses.replace(judgements, letterboxed=among)
    assert [metrics.summarise(shown)[name] for name in named] == [pytest.approx(3 / 4), 4]
    saved = dataclasses.replace(judgements, letterboxed=among.astype(np.float32))
    assert metrics.summarise(saved) == metrics.summarise(shown)


def test_summary_has_the_names_that_people_rely_on(judgements):
    summary = metrics.summarise(judgements)
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text) == summary
    names = (
        "accuracy accuracy_ci95 listener_confidence contradiction_rate contradiction_soft "
        "contradiction_rate_confident first_position_rate unparsed pairs"
    )
    assert set(names.split()) <= summary.keys()
    assert summary["accuracy"] == 5 / 8
    assert summary["first_position_rate"] == pytest.approx(4 / 9)
    assert (summary["unparsed"], summary["unparsed_share"]) == (1, 0.1)
    assert (summary["pairs"], summary["pairs_tied"], summary["judgements"]) == (5, 1, 10)
    assert summary["clusters"] == 3
    assert (summary["accuracy_two_orders"], summary["two_orders_unread"]) == (0.25, 1)
    assert summary["accuracy_ci95"] is None  # of three prompts


def test_the_order_of_rows_does_not_matter(judgements):
    flat, other = (metrics.summarise(j) for j in (judgements, permuted(judgements)))
    assert close(flat, other)


def close(left, right):
    if isinstance(left, dict):
        return all(close(left[k], right[k]) for k in left | right)
    if isinstance(left, list):
        return all(close(a, b) for a, b in zip(left, right, strict=True))
    return left == pytest.approx(right)


def test_turning_every_pair_round_changes_nothing_but_the_place(judgements):
    turned = dataclasses.replace(judgements, swapped=~judgements.swapped)
    assert close(metrics.summarise(turned), metrics.summarise(judgements))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(0, 0, False, -1, NAN, NAN, 1.0, 1.0), (1, 1, True, -1, NAN, NAN, 0.0, 1.0)],
        [(0, 0, False, 0, NAN, NAN, 0.5, 0.0)],
    ],
    ids=["no rows", "nothing readable", "only ties"],
)
def test_what_is_undefined_is_none(rows, recwarn):
    summary = metrics.summarise(judge(rows))
    json.dumps(summary, allow_nan=False)
    for name in ("listener_confidence", "contradiction_rate", "contradiction_soft"):
        assert summary[name] is None
    assert summary["calibration"]["ece"] is None
    assert summary["swap_consistency"] is None
    assert not recwarn.list


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"choice": np.zeros(3, np.int8)}, "choice has 3 rows"),
        ({"choice": np.full(10, 2, np.int8)}, "0, 1 or -1"),
        ({"swapped": np.zeros(10, bool)}, "more than once"),
        ({"target": np.full(10, NAN, np.float32)}, "5 pairs have no target, the first in row 0"),
        ({"margin": np.array([0.5] * 9 + [NAN], np.float32)}, "1 pairs have no .* in row 4"),
    ],
)
def test_judgements_that_do_not_fit(judgements, changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(judgements, **changes)
