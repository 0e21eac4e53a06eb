"""Completions as text: what a rollout's tokens say, read on the host."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.data.input.prompts import answer_position, parse
from lrt_jax.data.schema import NO_CHOICE
from lrt_jax.parallel import processes
from lrt_jax.parallel.collectives import all_gather_rows
from lrt_jax.rl.rollout import Rollout

WIDTH = 1024  # bytes of a completion's text, as it travels between hosts; twice that for longer


@dataclasses.dataclass(frozen=True)
class Completions:
    """What `B` groups of `G` completions say.

    One that was truncated, or has tokens that are lost in its text, counts as unanswered."""

    texts: list[list[str]]  # [B][G] without the stop token
    traces: list[list[str]]  # [B][G] what a listener may read
    well_formed: Bool[np.ndarray, "B G"]  # whether the whole completion has the required form
    # int8, FIRST, SECOND or NO_CHOICE, in the order in which the images were shown
    choice: Int[np.ndarray, "B G"]
    # int32, index of the answer's digit among the tokens, -1 where there is none
    answer_position: Int[np.ndarray, "B G"]
    length: Int[np.ndarray, "B G"]  # int32, tokens, the stop token included
    truncated: Bool[np.ndarray, "B G"]  # whether no stop token came in time
    # float32, mean probability of the tokens that `top_p` left to draw from
    nucleus_mass: Float[np.ndarray, "B G"]


def decode_completions(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> Completions:
    """Decodes and parses a rollout whose leaves are NumPy arrays."""
    shape = rollout.length.shape
    lengths = rollout.length - rollout.done  # the stop token is not part of the text
    tokens = rollout.tokens.reshape(-1, rollout.tokens.shape[-1])
    rows = [row[:n] for row, n in zip(tokens, lengths.ravel(), strict=True)]
    texts = tokenizer.batch_decode(
        rows, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    said = rollout.done.ravel() & ~_loses_tokens(rows, tokenizer)
    parsed = [
        p if whole else dataclasses.replace(p, well_formed=False, choice=NO_CHOICE)
        for p, whole in zip(map(parse, texts), said, strict=True)
    ]
    positions = [answer_position(row, tokenizer, p) for row, p in zip(rows, parsed, strict=True)]

    mask = np.arange(tokens.shape[-1]) < rollout.length[..., None]

    def grid(values, dtype):
        return np.array(values, dtype).reshape(shape)

    return Completions(
        texts=grid(texts, object).tolist(),
        traces=grid([p.trace for p in parsed], object).tolist(),
        well_formed=grid([p.well_formed for p in parsed], bool),
        choice=grid([p.choice for p in parsed], np.int8),
        answer_position=grid(positions, np.int32),
        length=rollout.length,
        truncated=~rollout.done,
        nucleus_mass=np.mean(rollout.nucleus_mass, axis=-1, where=mask),
    )


def own_probability(
    answer_p: Float[np.ndarray, "B G t"], completions: Completions
) -> Float[np.ndarray, "B G"]:
    """The policy's own probability that the first image shown is preferred, after its trace.

    NaN where the completion has no answer.

    Args:
      answer_p: of a rollout, on the host.
      completions: what it says.
    """
    position = completions.answer_position
    at = np.maximum(position, 0)[..., None]
    return np.where(position < 0, np.nan, np.take_along_axis(answer_p, at, axis=-1)[..., 0])


def all_gather_completions(completions: Completions, mesh: Mesh) -> Completions:
    """The completions of all processes, on every host; each is parsed by its own alone."""
    if processes.count() == 1:
        return completions
    columns = vars(completions).copy()
    # Closed by a byte of their own: NumPy takes zeros at the end of its strings for padding.
    texts = {
        name: [[text.encode() + b"." for text in row] for row in columns.pop(name)]
        for name in ("texts", "traces")
    }
    lengths = np.array([[len(text) for text in row] for row in texts["texts"]])
    longest = int(all_gather_rows(lengths, mesh).max())
    width = max(WIDTH, 1 << (longest - 1).bit_length())  # few widths, since each is compiled
    texts = {name: np.array(rows, f"S{width}") for name, rows in texts.items()}
    columns, texts = all_gather_rows((columns, texts), mesh)
    return Completions(
        **columns,
        **{
            name: [[text[:-1].decode() for text in row] for row in rows.tolist()]
            for name, rows in texts.items()
        },
    )


def _loses_tokens(
    rows: Sequence[Int[np.ndarray, " _"]], tokenizer: PreTrainedTokenizerBase
) -> Bool[np.ndarray, " n"]:
    """Which completions have tokens of which nothing is left in the text."""
    ids = np.unique(np.concatenate(rows))
    texts = tokenizer.batch_decode(ids[:, None], clean_up_tokenization_spaces=False)
    lost = [int(token) for token, text in zip(ids, texts, strict=True) if not text]
    return np.array([np.isin(row, lost).any() for row in rows])
