"""From batches to predictions, with an engine whose answers are written down here."""

import json
import types

import jax
import numpy as np
import pytest

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.pairs import target
from lrt_jax.data.schema import Batch, PairRecord, Target, hard_label, smoothed_share
from lrt_jax.data.sources import read_groups
from lrt_jax.evaluation import evaluator, metrics
from lrt_jax.evaluation.evaluator import evaluate, predictions_from_dict
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.rollout import SamplingConfig

NAN = np.nan
SAMPLING = SamplingConfig(max_tokens=4, stop_ids=(0,))

# Of each pair: votes for its two images and their ranks, caption, instance, and cluster.
PAIRS = (
    ((3, 1), (1.5, 1.25), "A red cat", "g0", 7),
    ((1, 4), (3.0, 1.0), "a red  cat!", "g1", 7),
    ((2, 2), (2.0, 2.0), "A red cat", "g0", 9),
)
# What is said of a pair in each order: sampled and greedy choice in the place as shown, and the
# policy's and the listener's probability for the image shown first.
SAID = {
    (0, False): ((0, 0.9, 0.8), (1, 0.4, 0.7)),
    (0, True): ((1, 0.2, 0.1), (0, 0.2, 0.6)),
    (1, False): ((-1, NAN, 0.6), (1, 0.1, 0.2)),  # unreadable, though something is heard
    (1, True): ((0, NAN, 0.9), (0, 0.8, 0.8)),  # an answer without a token of its own
    (2, False): ((0, 0.5, 0.5), (0, 0.6, 0.6)),
    (2, True): ((1, 0.5, 0.5), (-1, NAN, NAN)),
}
# The probabilities of the listener and of the held-out one without a trace, and of the latter with
# the traces, by pair and order.
ALONE = {key: (0.1 * i, 1 - 0.1 * i, (0.2, 0.3 + 0.1 * i)) for i, key in enumerate(SAID)}
LENGTH, TRUNCATED = {0: 10, 1: 20, 2: 40}, {1}  # by pair, of samples; greedy has other ones


def record(uid, votes, rank, prompt, group_id, cluster) -> PairRecord:
    votes = tuple(map(float, votes))
    return PairRecord(
        uid=uid,
        source="made",
        split="test",
        group_id=group_id,
        cluster=cluster,
        prompt=prompt,
        image_index=(0, 1),
        votes=votes,
        votes_weighted=(NAN, NAN),
        rank=rank,
        label=hard_label(votes),
        p_first=smoothed_share(votes),
        criterion="overall",
        generator=("", ""),
        flags=0,
    )


class Records(PreparedSet):
    """What an evaluation asks of a prepared set."""

    def __init__(self, records):
        self._records = records

    def pair(self, row):
        return self._records[row]

    @property
    def clusters(self):
        return np.array([x.cluster for x in self._records])


PREPARED = Records([record(f"made/{i}", *fields) for i, fields in enumerate(PAIRS)])


def batches(rows=tuple(SAID), fill=2, size=4, prepared=PREPARED):
    """Batches of pairs as `eval_loader` gives them; the last `fill` rows only fill up."""
    targets = [target(prepared.pair(p), p, s, 1.0) for p, s in rows]
    targets += [target(prepared.pair(0), 0, False, 0.0)] * fill
    for start in range(0, len(targets), size):
        columns = zip(*(vars(t).values() for t in targets[start : start + size]), strict=True)
        yield Batch(None, None, (), Target(*map(np.stack, columns)))


class Engine:
    """Says what `SAID` says; the policy's parameters are the number of the engine's calls."""

    def __init__(self, said=SAID, logps=-1.0, listens=True, alone=ALONE, measures=True):
        self.mesh, self.answer_ids = make_mesh(devices=jax.devices()[:1]), (1, 2)
        self.said, self.logps, self.listens, self.sampled = said, logps, listens, []
        self.alone, self.measures, self.asked = alone, measures, []

    def _column(self, place):
        return np.array([[member[place] for member in self.said[key]] for key in self.keys])

    def sampler_params(self, params, weights):
        assert weights == "full"
        return params

    def encode_images(self, params, batch, held_out):
        self.asked.append(held_out)
        return {None: None}

    def sample(self, params, batch, features, group_size, sampling, stream, step):
        pairs, turned = (np.asarray(x).tolist() for x in (batch.target.pair, batch.target.swapped))
        self.keys = list(zip(pairs, turned, strict=True))
        assert sampling.answer_ids == self.answer_ids
        self.sampled.append((group_size, sampling.greedy_members, sampling.temperature, stream))
        shape = (len(self.keys), group_size, 50)
        logps = np.full(shape, self.logps, np.float32)
        logps[..., -1] = NAN  # behind the end of every completion
        own = np.zeros(shape, np.float32)
        own[..., 3] = self._column(1)  # where the answers are
        arrays = {"logps": logps, "answer_p": own}
        return types.SimpleNamespace(**jax.tree.map(jax.numpy.asarray, arrays))

    def decode_rollout(self, rollout):
        choice, own = self._column(0).astype(np.int8), self._column(1)
        texts = [[f"{pair} {turned} {g}" for g in range(2)] for pair, turned in self.keys]
        lengths = [[LENGTH.get(pair, 1), 49] for pair, _ in self.keys]
        return Completions(
            texts=texts,
            traces=texts,
            well_formed=choice >= 0,
            choice=choice,
            answer_position=np.where(np.isnan(own), -1, 3),
            length=np.array(lengths, np.int32),
            truncated=np.array([[pair in TRUNCATED, False] for pair, _ in self.keys]),
            nucleus_mass=np.ones(choice.shape, np.float32),
        )

    def score_frozen(self, batch, features, rollout, completions, *, alone, held_out):
        assert alone
        self.asked.append(held_out)

        def of_pair(i, asked):
            return np.array([self.alone[key][i] for key in self.keys]) if asked else None

        return types.SimpleNamespace(
            p_first=self._column(2) if self.listens else None,
            p_first_alone=of_pair(0, self.listens),
            held_out=of_pair(2, self.measures and held_out),
            held_out_alone=of_pair(1, self.measures and held_out),
        )


def judged(engine=None, **options):
    return evaluate(engine or Engine(), {}, batches(), PREPARED, SAMPLING, **options)


def column(member, place):
    """What `SAID` has of a mode, row by row."""
    return np.array([said[member][place] for said in SAID.values()])


def test_both_modes_come_from_one_group():
    engine = Engine()
    judged(engine)
    assert engine.sampled == [(2, 1, 1.0, 1)] * 2  # a sample and a greedy member, of stream 1


@pytest.mark.parametrize("member, mode", enumerate(("sampled", "greedy")))
def test_each_mode_has_its_own_members_answers(member, mode):
    got = getattr(judged(), mode)
    np.testing.assert_array_equal(got.pair, [0, 0, 1, 1, 2, 2])  # without what fills up
    np.testing.assert_array_equal(got.swapped, [False, True] * 3)
    np.testing.assert_array_equal(got.choice, column(member, 0))
    np.testing.assert_array_equal(got.p_first, column(member, 1).astype(np.float32))
    heard = np.where(column(member, 0) < 0, NAN, column(member, 2))
    np.testing.assert_array_equal(got.listener_p_first, heard.astype(np.float32))
    assert got.choice.dtype == np.int8
    assert {got.p_first.dtype, got.listener_p_first.dtype, got.target.dtype} == {
        np.dtype(np.float32)
    }
    assert got.trace_truth is None and got.trace_objects is None


def test_what_listeners_say_without_a_trace_is_the_same_for_both_modes():
    evaluation = judged()
    alone, held_out_alone, held_out = zip(*ALONE.values(), strict=True)
    for member, got in enumerate((evaluation.sampled, evaluation.greedy)):
        np.testing.assert_array_equal(got.listener_alone, np.float32(alone))
        np.testing.assert_array_equal(got.held_out_alone, np.float32(held_out_alone))
        heard = np.where(got.choice < 0, NAN, [x[member] for x in held_out])
        np.testing.assert_array_equal(got.held_out_p_first, np.float32(heard))


@pytest.mark.parametrize("held_out", [True, False])
def test_the_held_out_listener_is_asked_where_it_is_wanted(held_out):
    engine = Engine()
    got = judged(engine, held_out=held_out).greedy
    assert engine.asked and set(engine.asked) == {held_out}
    assert (got.held_out_p_first is not None) == (got.held_out_alone is not None) == held_out
    assert got.listener_alone is not None


def test_an_evaluation_without_listeners_has_none_of_their_columns():
    got = judged(Engine(listens=False, measures=False)).sampled
    assert got.listener_alone is got.held_out_p_first is got.held_out_alone is None


def test_votes_are_turned_with_a_swapped_pair():
    evaluation = judged()
    for got in (evaluation.sampled, evaluation.greedy):
        np.testing.assert_allclose(got.target, [0.75, 0.25, 0.2, 0.8, 0.5, 0.5], rtol=1e-6)
        np.testing.assert_allclose(got.margin, [0.5, 0.5, 0.6, 0.6, 0, 0], rtol=1e-6)
        np.testing.assert_array_equal(got.cluster, [7, 7, 7, 7, 9, 9])


def test_ranks_are_turned_with_a_swapped_pair():
    evaluation = judged()
    for got in (evaluation.sampled, evaluation.greedy):
        np.testing.assert_array_equal(got.rank_lead, [-0.25, 0.25, -2, 2, 0, 0])
        assert got.rank_lead.dtype == np.float32


def test_prompts_are_captions_that_read_the_same_in_a_cluster():
    got = judged().sampled
    np.testing.assert_array_equal(got.prompt, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(got.group, [0, 0, 1, 1, 2, 2])


def test_inversion_score_of_the_gallery(real_data):
    """Its mean ranks say of 163 of 2,700 pairs other than the majority, of 27 the opposite."""
    records = [
        record("", votes, (group.ranks[i], group.ranks[j]), group.prompt, group.group_id, g)
        for g, group in enumerate(read_groups("hpdv2", real_data / "hpd_gallery"))
        for i, j, *votes in group.pairs
    ]
    lead = [x.rank[1] - x.rank[0] for x in records]
    said = {
        (row, turned): (((lead[row] < 0) != turned, 0.5, NAN),) * 2
        for row in range(len(records))
        for turned in (False, True)
    }
    shown = batches(tuple(said), fill=0, size=1000, prepared=Records(records))
    engine = Engine(said, listens=False, measures=False)
    got = evaluate(engine, {}, shown, Records(records), SAMPLING).greedy
    votes, ranks = metrics.by_votes(got), metrics.by_ranks(got)
    assert (votes != ranks).sum() == 2 * 163
    assert (np.abs(votes - ranks) == 1).sum() == 2 * 27
    scores = metrics.accuracy_by_tie_rule(got)
    assert scores["hpdv2"] == {"micro": 1.0, "macro": 1.0}  # of a judge that goes by the ranks
    assert 0.98 < scores["drop"]["micro"] < 1.0


def test_nobody_listens_where_there_is_no_listener():
    got = judged(Engine(listens=False))
    assert np.isnan(got.sampled.listener_p_first).all()
    assert got.summary()["contradiction_rate"] is None


def test_length_and_truncation_are_of_the_samples():
    evaluation = judged()
    assert evaluation.length == pytest.approx((10 + 20 + 40) / 3)  # no row of weight 0 counts
    assert evaluation.truncated == pytest.approx(1 / 3)


def test_truth_is_told_of_each_trace_as_shown():
    def truth(pair, swapped, traces):
        for p, s, row in zip(pair, swapped, traces, strict=True):
            assert row == [f"{p} {bool(s)} {g}" for g in range(2)]
        share = np.array([[p / 10 + s / 2, NAN] for p, s in zip(pair, swapped, strict=True)])
        return {
            "trace_truth": share.astype(np.float32),
            "trace_objects": np.tile(np.array([2, 0], np.float32), (len(pair), 1)),
        }

    evaluation = judged(truth=truth)
    np.testing.assert_allclose(
        evaluation.sampled.trace_truth, [0, 0.5, 0.1, 0.6, 0.2, 0.7], rtol=1e-6
    )
    assert np.isnan(evaluation.greedy.trace_truth).all()
    assert (evaluation.sampled.trace_objects == 2).all()
    assert not evaluation.greedy.trace_objects.any()


def test_progress_counts_judged_rows():
    rows = []
    judged(progress=rows.append)
    assert rows == [4, 2]


def test_the_headline_is_the_samples_and_the_scorer_greedy():
    evaluation = judged()
    got = evaluation.summary()
    assert got["accuracy"] == pytest.approx(3 / 4) == got["sampled"]["accuracy"]
    assert got["accuracy_greedy"] == pytest.approx(2 / 4) == got["greedy"]["accuracy"]
    assert got["sampled"]["accuracy_two_orders"] == 0.5 and got["accuracy_reward_model"] == 1.0
    assert got["sampled"]["two_orders_unread"] == 1 and got["reward_model_unread"] == 0
    assert (got["unparsed"], got["greedy"]["unparsed"], got["pairs"]) == (1, 1, 3)
    assert got["contradiction_rate"] == 0.0 and got["greedy"]["contradiction_rate"] == 0.2


def test_what_is_written_is_read_back():
    evaluation = judged(
        truth=lambda pair, *_: {
            "trace_truth": np.full((len(pair), 2), NAN, np.float32),
            "trace_objects": np.zeros((len(pair), 2), np.float32),
        }
    )
    saved = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    for mode in ("sampled", "greedy"):
        again = predictions_from_dict(saved["judgements"][mode])
        for name, values in vars(getattr(evaluation, mode)).items():
            np.testing.assert_array_equal(getattr(again, name), values)
            assert getattr(again, name).dtype.kind == values.dtype.kind


def with_row(key, member, values):
    """`SAID`, but for what one member says of one row."""
    said = list(SAID[key])
    said[member] = values
    return SAID | {key: tuple(said)}


@pytest.mark.parametrize(
    "said, name",
    [
        (with_row((1, True), 0, (0, np.inf, 0.5)), "its probability of its own answer"),
        (with_row((1, True), 1, (0, 0.5, NAN)), "the listener's probability"),
    ],
)
def test_numbers_that_are_none_end_the_evaluation(said, name):
    with pytest.raises(FloatingPointError, match=f"{name} is not finite, in made/1$"):
        judged(Engine(said))


@pytest.mark.parametrize(
    "alone, name",
    [
        ((NAN, 0.5, (0.5, 0.5)), "the listener's probability without a trace"),
        ((0.5, 0.5, (0.5, NAN)), "the held-out listener's probability"),
        ((0.5, np.inf, (0.5, 0.5)), "the held-out listener's probability without a trace"),
    ],
)
def test_numbers_that_no_listener_gives_without_a_trace_end_the_evaluation(alone, name):
    with pytest.raises(FloatingPointError, match=f"{name} is not finite, in made/1$"):
        judged(Engine(alone=ALONE | {(1, True): alone}))


def test_all_processes_learn_of_numbers_that_are_none(monkeypatch):
    """The one that has them would leave the others waiting for its rows."""
    gathered = []

    def all_gather_rows(tree, mesh):
        gathered.append(tree)
        return tree

    monkeypatch.setattr(evaluator, "all_gather_rows", all_gather_rows)
    with pytest.raises(FloatingPointError, match="is not finite"):
        judged(Engine(logps=NAN))
    assert len(gathered) == 1


def test_weights_that_overflow_are_no_evaluation():
    """Nothing can be read then, so that neither probability is defined."""
    silent = dict.fromkeys(SAID, ((-1, NAN, NAN), (-1, NAN, NAN)))
    judged(Engine(silent))
    with pytest.raises(FloatingPointError, match="log-probability of its tokens is not finite"):
        judged(Engine(silent, logps=NAN))
