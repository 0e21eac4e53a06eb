"""Evaluating a policy and its listeners: every pair in both orders, sampled and greedy."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lrt_jax.config.choices import SamplingWeights
from lrt_jax.data.captions import normalise
from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.data.schema import Batch
from lrt_jax.evaluation import metrics
from lrt_jax.evaluation.predictions import LATER_METRICS, ROW_METRICS, Predictions
from lrt_jax.parallel.collectives import all_gather_rows, rows_to_host, shard_local_batch
from lrt_jax.rl.completions import Completions, own_probability
from lrt_jax.rl.engine import POLICY, Engine, FrozenScores
from lrt_jax.rl.nonfinite import NotFiniteError, named
from lrt_jax.rl.rollout import Rollout, SamplingConfig

# ([B] rows of the pairs table, [B] swapped, [B][G] traces) -> [B, G] columns of `Predictions`
Truth = Callable[[np.ndarray, np.ndarray, Sequence[Sequence[str]]], Mapping[str, np.ndarray]]

STREAM = 1  # of random numbers; training has another
MODES = ("sampled", "greedy")  # members of a group


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The predictions of a policy over the same rows, by mode."""

    sampled: Predictions  # at the training temperature
    greedy: Predictions  # the likeliest token always
    truncated: float  # share of sampled completions without a stop token
    length: float  # mean tokens of a sampled completion

    def summary(self) -> dict:
        """The fields of `before` and `after` in `results.json`, and all other figures."""
        sampled = metrics.summarise(self.sampled)
        greedy = metrics.summarise(self.greedy)
        return {
            **{name: sampled[name] for name in (*HEADLINE, *LATER_HEADLINE)},
            "accuracy_greedy": greedy["accuracy"],
            "accuracy_greedy_ci95": greedy["accuracy_ci95"],
            "accuracy_reward_model": greedy["accuracy_two_orders"],
            "accuracy_reward_model_ci95": greedy["accuracy_two_orders_ci95"],
            "reward_model_unread": greedy["two_orders_unread"],
            "truncated": self.truncated,
            "completion_length": self.length,
            "sampled": sampled,
            "greedy": greedy,
        }

    def to_dict(self) -> dict:
        """For JSON: the summary, and every prediction, so that runs can be compared in pairs."""
        rows = {mode: _columns(getattr(self, mode)) for mode in MODES}
        return {**self.summary(), "judgements": rows}


def _with_intervals(names: Collection[str]) -> tuple[str, ...]:
    return tuple(f"{name}{ending}" for ending in ("", "_ci95") for name in names)


HEADLINE = (
    *_with_intervals([name for name in ROW_METRICS if name not in LATER_METRICS]),
    "accuracy_macro",
    "unparsed",
    "pairs",
)
LATER_HEADLINE = _with_intervals(LATER_METRICS)  # which older files have not


def evaluate(
    engine: Engine,
    params: Mapping,
    batches: Iterable[Batch],
    prepared: DataSet,
    sampling: SamplingConfig,
    *,
    weights: SamplingWeights = "full",
    held_out: bool = True,
    truth: Truth | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Evaluation:
    """Predicts every row of `batches` once in each mode.

    Args:
      engine: policy and listeners.
      params: of the policy.
      batches: NumPy batches of `eval_loader`, this process's rows; those of weight 0 are left out.
      prepared: the set they come from, for votes and prompt clusters.
      sampling: of the sampled mode.
      weights: of the copy that is sampled from, see `SamplingOptions`.
      held_out: whether to ask the engine's held-out listener too, where it has one.
      truth: tells how true traces are, where that is known.
      progress: called with the number of rows after each batch.

    Raises:
      NotFiniteError: a number of the policy or of a listener is NaN or infinite where there should
        be one; the pairs are named.
    """
    both_modes = reading_both_modes(sampling, engine.answer_ids)
    rows: dict[str, list[dict]] = {mode: [] for mode in MODES}
    stats = []
    sampler_params = engine.sampler_params(params, weights)
    for batch in batches:
        on_device = shard_local_batch(batch, engine.mesh)
        features = engine.encode_images(params, on_device, held_out=held_out)
        completions, columns, nonfinite = _predict_batch(
            engine, sampler_params, on_device, features, both_modes, held_out
        )
        if truth is not None:
            columns |= truth(batch.target.pair, batch.target.swapped, completions.traces)
        lengths = completions.truncated[:, 0], completions.length[:, 0]
        columns, nonfinite, lengths, target = all_gather_rows(
            (columns, nonfinite, lengths, batch.target), engine.mesh
        )
        # Of all processes, so that all of them stop.
        _check_finite(nonfinite, target.pair, prepared)
        keep = target.weight > 0
        for member, mode in enumerate(MODES):
            row = {name: values[:, member] for name, values in columns.items()}
            row |= {"pair": target.pair, "swapped": target.swapped}
            if target.letterboxed is not None:
                row["letterboxed"] = target.letterboxed
            rows[mode].append({name: values[keep] for name, values in row.items()})
        stats.append(np.stack([values[keep] for values in lengths]).astype(float))
        progress(int(keep.sum()))
    truncated, length = np.concatenate(stats, axis=1).mean(axis=1)
    judged = {mode: _predictions(rows[mode], prepared) for mode in MODES}
    return Evaluation(**judged, truncated=float(truncated), length=float(length))


def reading_both_modes(sampling: SamplingConfig, answer_ids: tuple[int, int]) -> SamplingConfig:
    """As `sampling`, with the last member of a group greedy, and the answers' probabilities."""
    return dataclasses.replace(sampling, greedy_members=1, answer_ids=answer_ids)


def predictions_from_dict(saved: Mapping) -> Predictions:
    """Reads back what `Evaluation.to_dict` wrote for a mode."""
    dtypes = {"choice": np.int8, "swapped": bool, "letterboxed": bool}
    dtypes |= dict.fromkeys(("pair", "cluster", "prompt", "group"), np.int64)
    lists = {name: [np.nan if v is None else v for v in values] for name, values in saved.items()}
    return Predictions(**{x: np.array(lists[x], dtypes.get(x, np.float32)) for x in lists})


def _predict_batch(
    engine: Engine,
    sampler_params,
    batch: Batch,
    features,
    both_modes: SamplingConfig,
    held_out: bool,
):
    """Predicts a batch in both modes, with one prefill for the two.

    Returns:
      Completions `[B, 2]`; columns `[B, 2]` of `Predictions`; and by the name of a number in which
      rows it is not finite, bool `[B, 2]`.
    """
    members = len(MODES)
    rollout = engine.sample(sampler_params, batch, features[POLICY], members, both_modes, STREAM, 0)
    completions = engine.decode_rollout(rollout)
    answer_p = own_probability(rows_to_host(rollout.answer_p), completions)
    asked = {"alone": True, "held_out": held_out}
    scores = engine.score_frozen(batch, features, rollout, completions, **asked)
    said = completions.choice >= 0
    listeners = _listener_columns(scores, said)
    columns = {
        "choice": completions.choice,
        "p_first": answer_p.astype(np.float32),
        "listener_p_first": np.full(said.shape, np.nan, np.float32),
        **listeners,
    }
    logps = _token_logps(rollout, completions)
    nonfinite = {
        "the log-probability of its tokens": ~np.isfinite(logps).all(axis=-1),
        "its probability of its own answer": (completions.answer_position >= 0)
        & ~np.isfinite(answer_p),
    }
    for name, values in listeners.items():
        heard = said | name.endswith("_alone")
        nonfinite[PROBABILITIES[name]] = heard & ~np.isfinite(values)
    return completions, columns, nonfinite


# Of listeners, by the column of `Predictions` that holds them.
PROBABILITIES = {
    "listener_p_first": "the listener's probability",
    "listener_alone": "the listener's probability without a trace",
    "held_out_p_first": "the held-out listener's probability",
    "held_out_alone": "the held-out listener's probability without a trace",
}


def _listener_columns(
    scores: FrozenScores, said: Bool[np.ndarray, "B G"]
) -> dict[str, Float[np.ndarray, "B G"]]:
    """Those of `PROBABILITIES` that were asked for; with a trace NaN where nothing was said."""
    given = {"listener_p_first": scores.p_first, "held_out_p_first": scores.held_out}
    alone = {"listener_alone": scores.p_first_alone, "held_out_alone": scores.held_out_alone}
    columns = {name: np.where(said, p, np.nan) for name, p in given.items() if p is not None}
    for name, p in alone.items():
        if p is not None:
            columns[name] = np.broadcast_to(p[:, None], said.shape)
    return {name: values.astype(np.float32) for name, values in columns.items()}


def _token_logps(rollout: Rollout, completions: Completions) -> Float[np.ndarray, "B G t"]:
    """On the host; 0 behind the end of a completion."""
    logps = rows_to_host(rollout.logps)
    tokens = np.arange(logps.shape[-1]) < completions.length[..., None]
    return np.where(tokens, logps, 0.0)


def _check_finite(
    nonfinite: Mapping[str, Bool[np.ndarray, "B 2"]], pair: Int[np.ndarray, " B"], prepared: DataSet
) -> None:
    """Refuses a batch in which any number is not finite, with its name and its pairs."""
    for name, rows in nonfinite.items():
        if rows.any():
            pairs = np.unique(pair[rows.any(axis=1)])
            raise NotFiniteError(f"{name} is not finite, in {named(prepared, pairs)}")


def _predictions(rows: list[dict], prepared: DataSet) -> Predictions:
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    records, swapped = [prepared.pair(int(pair)) for pair in columns["pair"]], columns["swapped"]
    votes = np.array([record.votes for record in records], np.float64)
    share = votes[:, 0] / votes.sum(axis=1)
    ranks = np.array([record.rank for record in records], np.float64)
    lead = ranks[:, 1] - ranks[:, 0]
    return Predictions(
        **columns,
        cluster=prepared.clusters[columns["pair"]],
        target=np.where(swapped, 1.0 - share, share).astype(np.float32),
        margin=np.abs(2 * share - 1).astype(np.float32),
        prompt=_numbered((r.cluster, normalise(r.prompt)) for r in records),
        group=_numbered((r.cluster, r.source, r.split, r.group_id) for r in records),
        rank_lead=np.where(swapped, -lead, lead).astype(np.float32),
    )


def _numbered(names: Iterable[tuple]) -> Int[np.ndarray, " R"]:
    """A number for each different name, in the order of first occurrence."""
    numbers: dict[tuple, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _columns(predictions: Predictions) -> dict[str, list]:
    columns = {}
    for field in dataclasses.fields(predictions):
        if (column := getattr(predictions, field.name)) is not None:
            columns[field.name] = [None if value != value else value for value in column.tolist()]
    return columns
