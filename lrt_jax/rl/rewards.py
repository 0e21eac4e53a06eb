"""Named, weighted reward terms over what is known about each completion.

The default is `r = r_fmt + 0.5 r_acc + 0.5 r_list`, see `DEFAULT_WEIGHTS`. The two halves are those
that public reviews quote of the paper (arXiv 2506.22832, its Equation 3); that format is 0 or 1 and
counts 1 is second hand. A term is a function from :class:`RewardInputs` to numbers, registered by
name in `TERMS`; a further term is one more function there, or one of your own, which a config names
by `package/module:function`. `B` pairs, `G` completions each; all on the host, in NumPy.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int8

from lrt_jax.data.schema import FIRST, NO_CHOICE, SECOND
from lrt_jax.rl import advantages
from lrt_jax.rl.nonfinite import NotFiniteError

DEFAULT_WEIGHTS = {"format": 1.0, "accuracy": 0.5, "listener": 0.5}

BoolPerMember = Bool[np.ndarray, "B G"]
ChoicePerMember = Int8[np.ndarray, "B G"]
PerMember = Float32[np.ndarray, "B G"]
PerPair = Float[np.ndarray, " B"]


@dataclasses.dataclass(frozen=True)
class RewardInputs:
    """What the rewards need to know about the completions, in the order the images were shown.

    Attributes:
      well_formed: [B, G] bool, the whole completion matches the required form.
      choice: [B, G] int8, image the completion prefers: 0 first, 1 second, -1 if no answer could be
        read, a truncated completion included.
      listener_p_first: [B, G] float32, the listener's probability that the first image is
        preferred, given the reasoning without its answer; None without a listener. Ignored where
        `choice` is -1, so it may be NaN there.
      p_first: [B] float32, target probability that the first image is preferred: 1 or 0 for a hard
        label, a share of votes for a soft one, 0.5 for a tie.
      captions: of the `B` pairs; empty where no term of `rewards.weights` may read them.
      texts: [B][G] whole completions, without the stop token.
      traces: [B][G] what a listener may read of them.

    Raises:
      ValueError: arrays whose shapes do not fit, or a choice other than 0, 1, -1.
    """

    well_formed: BoolPerMember
    choice: ChoicePerMember
    listener_p_first: PerMember | None
    p_first: PerPair
    captions: Sequence[str] = ()
    texts: Sequence[Sequence[str]] = ()
    traces: Sequence[Sequence[str]] = ()

    def __post_init__(self):
        shapes = {
            "well_formed": self.choice.shape,
            "listener_p_first": self.choice.shape,
            "p_first": self.choice.shape[:1],
        }
        for name, expected in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != expected:
                raise ValueError(f"{name} has shape {value.shape}, expected {expected} from choice")
        if not np.isin(self.choice, (FIRST, SECOND, NO_CHOICE)).all():
            raise ValueError(f"choice must be 0, 1 or -1, found {np.unique(self.choice).tolist()}")


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Reward terms, unweighted, and their weighted sum.

    Attributes:
      terms: name -> [B, G] float32; holds computable terms of weight 0 too, to be logged.
      total: [B, G] float32.
    """

    terms: dict[str, PerMember]
    total: PerMember


def format_term(inputs: RewardInputs) -> PerMember:
    """1 where the completion is well formed, else 0."""
    return inputs.well_formed.astype(np.float32)


def accuracy_term(inputs: RewardInputs) -> PerMember:
    """Target probability of the chosen image; 0 if nothing was chosen."""
    target = inputs.p_first[:, None]
    chosen = np.where(inputs.choice == FIRST, target, 1.0 - target)
    return np.where(inputs.choice == NO_CHOICE, 0.0, chosen).astype(np.float32)


def listener_term(inputs: RewardInputs) -> PerMember:
    """Probability the listener gives to the preferred image, in expectation over the target.

    `p q + (1 - p)(1 - q)`, with target `p` and listener `q`; for a hard label the listener's
    probability of the right answer. 0 if nothing was chosen.
    """
    if inputs.listener_p_first is None:
        raise ValueError("the listener term has a weight, but no listener was asked")
    target, listener = inputs.p_first[:, None], inputs.listener_p_first
    expected = target * listener + (1.0 - target) * (1.0 - listener)
    return np.where(inputs.choice == NO_CHOICE, 0.0, expected).astype(np.float32)


TERMS: dict[str, Callable[[RewardInputs], PerMember]] = {
    "format": format_term,
    "accuracy": accuracy_term,
    "listener": listener_term,
}


def find_term(name: str) -> Callable[[RewardInputs], PerMember]:
    """A term by its name in `TERMS`, or by `package/module:function`.

    With a slash for the dot, since names of a config's fields have none.

    Raises:
      ValueError: there is none.
    """
    if name in TERMS:
        return TERMS[name]
    module, _, function = name.partition(":")
    if not function:
        near = difflib.get_close_matches(name, TERMS, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown reward term {name!r}, nearest is {near[0]!r}; known are {', '.join(TERMS)}, "
            "and package/module:function for one of your own"
        )
    try:
        found = getattr(importlib.import_module(module.replace("/", ".")), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"reward term {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"reward term {name!r} is no function")
    return found


def combine(inputs: RewardInputs, weights: Mapping[str, float]) -> Rewards:
    """Terms named by `weights`, and their weighted sum.

    A term of weight 0 is still computed for the log, except the listener's when there is none.

    Raises:
      ValueError: no or unknown terms, a term of another shape than [B, G], a weight that is not
        finite, or a weighted listener term without a listener.
      NotFiniteError: NaN or infinity in a term, with the term's name and its pairs' rows.
    """
    if not weights:
        raise ValueError(f"no reward terms; known are {', '.join(TERMS)}")
    functions, terms = {name: find_term(name) for name in weights}, {}
    for name, weight in weights.items():
        if not np.isfinite(weight):
            raise ValueError(f"weight of reward term {name!r} is {weight}")
    for name, weight in weights.items():
        if name == "listener" and weight == 0 and inputs.listener_p_first is None:
            continue
        with np.errstate(invalid="ignore"):  # inf - inf is refused below, by name
            terms[name] = np.asarray(functions[name](inputs), np.float32)
        _check_term(name, terms[name], inputs.choice.shape)
    total = np.zeros(inputs.choice.shape, np.float32)
    for name, term in terms.items():
        total += np.float32(weights[name]) * term
    return Rewards(terms=terms, total=total)


def reward_metrics(rewards: Rewards) -> dict[str, float]:
    """Statistics of every term and of the total, as plain floats.

    For each name: `reward/NAME/mean`, `reward/NAME/spread` (mean over groups of the unbiased
    standard deviation; 0 for groups of one) and `reward/NAME/zero_spread` (share of groups whose
    members are all rewarded alike).
    """
    metrics = {}
    for name, values in (rewards.terms | {"total": rewards.total}).items():
        single = values.shape[-1] < 2
        metrics[f"reward/{name}/mean"] = float(values.mean())
        metrics[f"reward/{name}/spread"] = 0.0 if single else float(values.std(-1, ddof=1).mean())
        metrics[f"reward/{name}/zero_spread"] = float(advantages.zero_spread(values).mean())
    return metrics


def _check_term(name: str, term: PerMember, expected: tuple[int, int]) -> None:
    """Refuses a term of another shape, or with numbers that are not finite."""
    if term.shape != expected:
        raise ValueError(
            f"reward term {name!r} has shape {term.shape}, expected {expected}: a number for each "
            "completion of each pair"
        )
    bad = np.argwhere(~np.isfinite(term))
    if len(bad):
        pair, member = bad[0]
        raise NotFiniteError(
            f"reward term {name!r} is {term[pair, member]} for member {member} of a group; "
            f"{len(bad)} of {term.size} values are not finite",
            np.unique(bad[:, 0]),
        )
