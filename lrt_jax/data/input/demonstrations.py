"""Completions to imitate: given ones, read from a file, or the bare answers.

A file of given ones has a JSON object a line: `pair`, the pair's uid in the prepared set;
`swapped`, whether the completion is about the pair in the opposite of its stored order;
`completion`, the whole text without a stop token. A pair and order may have several lines.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable

import numpy as np
from etils import epath
from transformers import PreTrainedTokenizerBase

from lrt_jax.data.input.tokenizer import DIGITS, token_ids
from lrt_jax.data.schema import FIRST, SECOND, Demonstrations, PairRecord

CHECKED_AT_ONCE = 256  # pairs; a tokenizer is several times as fast on many texts

Lookup = Callable[[PairRecord, bool], list[str]]  # (pair, swapped) -> completions


class DemonstrationError(ValueError):
    """A pair without a completion to imitate, or one that does not fit."""


@dataclasses.dataclass(frozen=True)
class DemonstrationFile:
    """Given completions, by pair and order. Opens its file at first use; can be pickled."""

    path: str

    def __reduce__(self):
        return DemonstrationFile, (self.path,)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the file, hexadecimal."""
        return hashlib.sha256(epath.Path(self.path).read_bytes()).hexdigest()

    @functools.cached_property
    def _completions(self) -> dict[tuple[str, bool], list[str]]:
        found: dict[tuple[str, bool], list[str]] = {}
        with epath.Path(self.path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    pair, swapped, text = self._read(line, number)
                    found.setdefault((pair, swapped), []).append(text)
        return found

    def _read(self, line: bytes, number: int) -> tuple[str, bool, str]:
        wanted = {"pair": str, "swapped": bool, "completion": str}
        try:
            record = json.loads(line)
            values = tuple(record[name] for name in wanted)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DemonstrationError(
                f"{self.path}, line {number}: not an object with {', '.join(wanted)} ({error!r}); "
                "mend or remove that line"
            ) from None
        for (name, kind), value in zip(wanted.items(), values, strict=True):
            if not isinstance(value, kind):
                raise DemonstrationError(
                    f"{self.path}, line {number}: field {name!r} is {value!r}, expected "
                    f"{kind.__name__}"
                )
        return values

    def __call__(self, record: PairRecord, swapped: bool) -> list[str]:
        """Completions about a pair in an order.

        Raises:
          DemonstrationError: there is none, or the file is not as it should be.
        """
        found = self._completions.get((record.uid, swapped))
        if not found:
            raise DemonstrationError(
                f"{self.path}: no completion for pair {record.uid!r} with swapped={swapped}; give "
                "one for both orders of every training pair"
            )
        return found


def bare_answers(record: PairRecord, swapped: bool) -> list[str]:
    """The right answer in the required form, with no thought.

    Raises:
      DemonstrationError: people did not decide.
    """
    if record.label not in (FIRST, SECOND):
        raise DemonstrationError(
            f"pair {record.uid!r} has no majority, and so no answer to imitate"
        )
    digit = DIGITS[record.label if not swapped else 1 - record.label]
    return [f"<think></think><answer>{digit}</answer>"]


@dataclasses.dataclass(frozen=True)
class DemonstrationEncoder:
    """Turns the completions for a pair into padded tokens. Can be pickled."""

    tokenizer: PreTrainedTokenizerBase  # the policy's
    stop_id: int  # ends a completion
    group: int  # demonstrations for each pair, drawn from those given
    bucket: int  # tokens of each, padding included
    find: Lookup  # given completions of a pair in an order

    @property
    def digest(self) -> str:
        """Of what is imitated: it must not change under a run that goes on."""
        return getattr(self.find, "digest", "bare answers")

    def check(self, records: Iterable[PairRecord]) -> None:
        """Looks up every demonstration of some pairs, so that none is found wanting on the way.

        Raises:
          DemonstrationError: a pair has none in one of its orders, or one longer than the bucket.
        """
        records = iter(records)
        while block := list(itertools.islice(records, CHECKED_AT_ONCE)):
            given = [
                (record, text)
                for record in block
                for swapped in (False, True)
                for text in self.find(record, swapped)
            ]
            ids = self.tokenizer([text for _, text in given], add_special_tokens=False).input_ids
            for (record, _), tokens in zip(given, ids, strict=True):
                self._check_length(record, len(tokens) + 1)

    def encode(self, record: PairRecord, swapped: bool, rng: np.random.Generator) -> Demonstrations:
        """`group` demonstrations about a pair, unbatched; with replacement where fewer are given.

        Raises:
          DemonstrationError: there is none, or one is longer than the bucket.
        """
        given = self.find(record, swapped)
        chosen = rng.choice(len(given), self.group, replace=len(given) < self.group)
        tokens = np.zeros((self.group, self.bucket), np.int32)
        length = np.zeros(self.group, np.int32)
        for i, index in enumerate(chosen):
            ids = [*token_ids(self.tokenizer, given[index]), self.stop_id]
            self._check_length(record, len(ids))
            tokens[i, : len(ids)], length[i] = ids, len(ids)
        return Demonstrations(tokens, length)

    def _check_length(self, record: PairRecord, tokens: int) -> None:
        if tokens > self.bucket:
            raise DemonstrationError(
                f"a completion for pair {record.uid!r} has {tokens} tokens, more than "
                f"max_completion_length={self.bucket}; raise that, or shorten it"
            )
