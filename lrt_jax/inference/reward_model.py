"""A trained reward model in people's hands: compare, rank, score."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from jax.typing import DTypeLike

from lrt_jax.config import ListenerSpec
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.input.tokenizer import stop_token_ids
from lrt_jax.inference.batching import in_batches
from lrt_jax.inference.pictures import ImageSource, check_caption, open_picture
from lrt_jax.inference.reader import Reader
from lrt_jax.inference.requests import WIDENED, Request, RequestEncoder
from lrt_jax.inference.results import Comparison, Ranking, Score, mean
from lrt_jax.inference.settings import ModelSettings, read_settings
from lrt_jax.inference.shared_reader import SharedReader
from lrt_jax.inference.tournament import (
    Tournament,
    all_pairs,
    anchor_pairs,
    anchors_met,
    at_least_one,
    choose_anchors,
    ranking,
)
from lrt_jax.models.folders import model_folder
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.parallel.threads import in_threads
from lrt_jax.rl.engine import Engine
from lrt_jax.rl.frozen import FrozenModel, open_frozen
from lrt_jax.rl.listener import Listener, make_listener
from lrt_jax.rl.rollout import SamplingConfig

SEED = 0  # of all sampling
COLUMNS = ("caption", "first", "second")  # of a row that is to be compared


class RewardModel:
    """Tells which of two images people would prefer for a caption, with what probability, and why.

    Every pair is read in both orders, so that the answer does not depend on which image is given
    first. An image is a path, the bytes of an image file, a PIL image, or a uint8 array of shape
    [H, W, 3], [H, W, 4] or [H, W].

    Attributes:
      batch_size: comparisons that are made together; a call with fewer takes as long.
    """

    def __init__(self, reader: Reader, encoder: RequestEncoder):
        self._reader, self._encoder = reader, encoder

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        listener: str | Path | ListenerSpec | None = None,
        dtype: DTypeLike = "float32",
        batch_size: int = 16,
        max_prompt_tokens: int | None = None,
        mesh: Mesh | None = None,
    ) -> "RewardModel":
        """Opens a model.

        Args:
          path: Hugging Face folder, workdir of a run, Hub id, or `tiny` for the built-in model,
            which knows drawn shapes only. It is asked as its `lrt_jax.json` says it was trained; a
            model without one as the project's configs would.
          listener: a second model, as `path`, that reads the reasoning without its answer and says
            which image it would choose; it is asked as the first listener of the model's training
            was, or as a judge where that had none. A `ListenerSpec` says how else. None for none.
          dtype: of weights and activations; `bfloat16` halves the memory.
          batch_size: comparisons that are made together.
          max_prompt_tokens: of the longest prompt that is read, images included; at least as many
            as in the model's training, however few are named. None: four times as many. What a
            longer prompt needs than the training's is compiled when it first comes, and takes
            memory with its length.
          mesh: devices; all of this process if not given.

        Raises:
          FileNotFoundError: there is no such model.
          ValueError: its files do not fit each other, the listener cannot read what it would be
            given, or the devices cannot share a batch.

        >>> model = RewardModel.from_pretrained("tiny")
        >>> model.batch_size
        16
        """
        mesh = mesh or make_mesh(devices=jax.local_devices())
        folder = model_folder(str(path))
        own = open_frozen(folder, dtype, mesh=mesh)
        settings = read_settings(folder, own.model.config.vision)
        listeners = [] if listener is None else [_listener(listener, own, settings, dtype, mesh)]
        parts = own.model, own.tokenizer, own.answer_ids, listeners, None, mesh, SEED
        sampling = SamplingConfig(
            settings.completion_length,
            stop_token_ids(folder, own.tokenizer),
            settings.temperature,
            settings.top_p,
        )
        reader = Reader(Engine(*parts), own.params, sampling, batch_size)
        return cls(reader, _encoder(own, listeners, settings, max_prompt_tokens))

    @property
    def batch_size(self) -> int:
        return self._reader.batch_size

    @property
    def images_encoded(self) -> int:
        """How many images have gone through the vision tower so far.

        >>> before = model.images_encoded
        >>> ranks = model.rank(caption="a red circle", images=[image, other, image])
        >>> ranks.comparisons, model.images_encoded - before
        (3, 2)
        """
        return self._reader.images_encoded

    def compare(
        self, *, caption: str, first: ImageSource, second: ImageSource, votes: int = 1
    ) -> Comparison:
        """Compares two images.

        Args:
          caption: what both are to show.
          first: an image.
          second: the other.
          votes: completions for each order; 1 takes the likeliest one, more are sampled.

        Raises:
          ImageError: an image is not there or cannot be used.
          PromptTooLong: the caption is.
          TypeError, ValueError: a caption in the place of an image, or the other way round; or no
            vote.
          NotFiniteError: the model gave no probability.
          BatchError: likewise, or anything else went wrong, where the model is `shared`.

        >>> caption = "a small red circle on the left above a large blue cross on the right"
        >>> result = model.compare(caption=caption, first=image, second=other)
        >>> 0 <= result.probability <= 1, result.standard_error, len(result.traces)
        (True, None, 2)
        >>> swapped = model.compare(caption=caption, first=other, second=image)
        >>> swapped.probability == 1 - result.probability
        True
        """
        row = {"caption": caption, "first": first, "second": second}
        return next(self._answers([self._request(row, votes)]))

    def compare_many(
        self,
        rows: Iterable[Mapping[str, Any] | Exception],
        *,
        votes: int = 1,
        on_bad_row: Literal["error", "return"] = "error",
    ) -> Iterator[Comparison | Exception]:
        """Compares the two images of each row, in batches, and in the order of the rows.

        Rows are taken as they are needed, so that there may be any number of them; their images are
        opened in threads ahead of that.

        Args:
          rows: mappings with `caption`, `first` and `second`, as of `compare`; an exception, as
            of a row that could not be read, is a bad row.
          votes: as of `compare`.
          on_bad_row: `error` raises what is wrong with a row; `return` gives the exception in its
            place and goes on.

        Raises:
          ValueError: `on_bad_row` is something else. While it is iterated over: as `compare`.

        >>> rows = [{"caption": "a red circle", "first": image, "second": other}] * 3
        >>> len(list(model.compare_many(rows)))
        3
        """
        if on_bad_row not in ("error", "return"):
            raise ValueError(f"on_bad_row={on_bad_row!r} is neither 'error' nor 'return'")
        catch = on_bad_row == "return"
        numbered = ((row, votes, number, catch) for number, row in enumerate(rows))
        return self._answers(in_threads(self._row_request, numbered))

    def rank(
        self,
        *,
        caption: str,
        images: Sequence[ImageSource],
        method: Literal["all", "anchors"] = "all",
        anchors: int | None = None,
        votes: int = 1,
    ) -> Ranking:
        """Ranks images of one caption.

        Each image is encoded once. Where they are of different sizes, all are shown in one grid,
        that of their mean size, so that probabilities may differ a little from those of `compare`.

        Args:
          caption: what all are to show.
          images: at least two.
          method: `all` compares each with each, `n (n - 1) / 2` comparisons; `anchors` each with
            some of them alone, about `n * anchors`.
          anchors: how many images all others are compared with; None: 2 with `anchors`.
          votes: as of `compare`.

        Raises:
          ImageError, PromptTooLong, TypeError, ValueError: as `compare`; or fewer than two images,
            or no anchor.

        >>> result = model.rank(caption="a red circle", images=[image, other])
        >>> sum(result.scores), result.comparisons, sorted(result.order)
        (1.0, 1, [0, 1])
        """
        group = {"caption": caption, "images": images}
        return next(self.rank_many([group], method=method, anchors=anchors, votes=votes))

    def rank_many(
        self,
        groups: Iterable[Mapping[str, Any]],
        *,
        method: Literal["all", "anchors"] = "all",
        anchors: int | None = None,
        votes: int = 1,
    ) -> Iterator[Ranking]:
        """Ranks several groups of images, whose comparisons share batches, in their order.

        Args:
          groups: mappings with `caption` and `images`, as of `rank`.
          method: as of `rank`.
          anchors: as of `rank`.
          votes: as of `rank`.

        Raises:
          ImageError, PromptTooLong, TypeError, ValueError: as `rank`.

        >>> group = {"caption": "a red circle", "images": [image, other]}
        >>> [ranks.comparisons for ranks in model.rank_many([group] * 3)]
        [1, 1, 1]
        """
        met = anchors_met(method, anchors)
        _check_votes(votes)
        groups = list(groups)
        largest = max((_length(x["images"]) for x in groups), default=0)
        tournaments = (_tournament(x["caption"], x["images"], met) for x in groups)
        return itertools.starmap(_ranking, self._hold(tournaments, largest, votes))

    def score(
        self,
        *,
        caption: str,
        image: ImageSource,
        anchors: Sequence[ImageSource],
        votes: int = 1,
    ) -> Score:
        """Scores an image by how it does against others; it means nothing without them.

        Args:
          caption: what all are to show.
          image: that is scored.
          anchors: images to compare it with, at least one; the same for all scores that are to be
            compared.
          votes: as of `compare`.

        Raises:
          ImageError, PromptTooLong, TypeError, ValueError: as `compare`; or no anchor.

        >>> model.score(caption="a red circle", image=image, anchors=[image]).score
        0.5
        """
        row = {"caption": caption, "image": image, "anchors": anchors}
        return next(self.score_many([row], votes=votes))

    def score_many(self, rows: Iterable[Mapping[str, Any]], *, votes: int = 1) -> Iterator[Score]:
        """Scores several images, whose comparisons share batches, in their order.

        Args:
          rows: mappings with `caption`, `image` and `anchors`, as of `score`.
          votes: as of `compare`.

        Raises:
          ImageError, PromptTooLong, TypeError, ValueError: as `score`.

        >>> row = {"caption": "a red circle", "image": image, "anchors": [image]}
        >>> [found.score for found in model.score_many([row] * 3)]
        [0.5, 0.5, 0.5]
        """
        _check_votes(votes)
        rows = list(rows)
        largest = 1 + max((_length(x["anchors"]) for x in rows), default=0)
        challenges = (_challenge(x["caption"], x["image"], x["anchors"]) for x in rows)
        return itertools.starmap(_score, self._hold(challenges, largest, votes))

    def warm_up(self, *, votes: int = 1) -> None:
        """Compiles what comparisons need whose prompts are no longer than in training.

        What longer ones need is compiled when they first come.

        Args:
          votes: of the comparisons to come.

        >>> model.warm_up()
        """
        gray = np.full((64, 64, 3), 128, np.uint8)
        request = self._request({"caption": "", "first": gray, "second": gray}, votes)
        images = self._reader.feature_cache()
        self._reader.read([request], images, force=True)

    @contextlib.contextmanager
    def shared(self, *, wait: float = 0.005, images: int = 256) -> Iterator["RewardModel"]:
        """The same model for many threads at once: what they ask at about the same time shares
        batches. The answers are those of the model itself, in all bits. Meanwhile nobody may ask
        the model itself.

        Args:
          wait: seconds that a comparison may wait for others to fill its batch.
          images: how many images are kept encoded, for all calls.

        >>> with model.shared() as shared:
        ...     shared.score(caption="a red circle", image=image, anchors=[image]).score
        0.5
        """
        with SharedReader(self._reader, wait, images) as reader:
            yield RewardModel(reader, self._encoder)

    def _hold(
        self, tournaments: Iterable[Tournament], images: int, votes: int
    ) -> Iterator[tuple[Tournament, list[Comparison]]]:
        """Tournaments, and the comparisons of their pairs; `images` are those of the largest."""
        tournaments, ahead = itertools.tee(tournaments)
        answers = self._answers((x for each in ahead for x in self._requests(each, votes)), images)
        for tournament in tournaments:
            yield tournament, [*itertools.islice(answers, len(tournament.pairs))]

    def _requests(self, tournament: Tournament, votes: int) -> Iterator[Request]:
        shown = self._encoder.show(tournament.pictures)
        for i, j in tournament.pairs:
            yield self._encoder.encode(tournament.caption, shown[i], shown[j], votes)

    def _answers(
        self, requests: Iterable[Request | Exception], images: int = 0
    ) -> Iterator[Comparison | Exception]:
        """Of requests, in their order; see `Reader.feature_cache` for `images`."""
        cache = self._reader.feature_cache(images)
        return in_batches(
            requests, lambda batch: self._reader.read(batch, cache), self._reader.batch_size
        )

    def _row_request(
        self, row: Mapping[str, Any] | Exception, votes: int, number: int, catch: bool
    ) -> Request | Exception:
        try:
            if isinstance(row, Exception):
                raise row
            if missing := [name for name in COLUMNS if name not in row]:
                needed = ", ".join(COLUMNS)
                raise ValueError(f"no {', '.join(missing)}; a row has {needed}")
            return self._request(row, votes)
        except (TypeError, ValueError) as error:
            error.add_note(f"in row {number}, counted from 0")
            if catch:
                return error
            raise

    def _request(self, row: Mapping[str, Any], votes: int) -> Request:
        caption = check_caption(row["caption"], [row["first"], row["second"]])
        _check_votes(votes)
        pictures = [open_picture(row[name], name) for name in ("first", "second")]
        return self._encoder.encode(caption, *self._encoder.show(pictures), votes)


def _tournament(caption: str, images: Sequence[ImageSource], anchors: int | None) -> Tournament:
    """Of images that are ranked by so many anchors, or each against each."""
    if _is_no_list(images) or len(images) < 2:
        raise ValueError("images: a ranking needs a list of at least two images")
    caption = check_caption(caption, images)
    pictures = [open_picture(image, f"images[{i}]") for i, image in enumerate(images)]
    if anchors is None:
        return Tournament(caption, pictures, all_pairs(len(images)))
    chosen = choose_anchors([x.digest for x in pictures], anchors)
    return Tournament(caption, pictures, anchor_pairs(len(images), chosen), chosen)


def _ranking(tournament: Tournament, verdicts: Sequence[Comparison]) -> Ranking:
    found = dict(zip(tournament.pairs, verdicts, strict=True))
    return ranking(len(tournament.pictures), found, tournament.anchors)


def _challenge(caption: str, image: ImageSource, anchors: Sequence[ImageSource]) -> Tournament:
    """An image against each anchor."""
    if _is_no_list(anchors) or not len(anchors):
        raise ValueError("anchors: a score needs a list of at least one image to compare with")
    named = [(image, "image"), *((x, f"anchors[{i}]") for i, x in enumerate(anchors))]
    pictures = [open_picture(*pair) for pair in named]
    pairs = [(0, i) for i in range(1, len(pictures))]
    return Tournament(check_caption(caption, [image, *anchors]), pictures, pairs)


def _score(tournament: Tournament, verdicts: Sequence[Comparison]) -> Score:
    return Score(mean(x.probability for x in verdicts), tuple(verdicts))


def _is_no_list(images: Any) -> bool:
    return not isinstance(images, Sequence | np.ndarray) or isinstance(images, str | bytes)


def _length(images: Any) -> int:
    """0 of what is no list, and is refused when its turn comes."""
    return 0 if _is_no_list(images) else len(images)


def _check_votes(votes: int) -> None:
    at_least_one("votes", votes)


def _listener(
    asked: str | Path | ListenerSpec,
    own: FrozenModel,
    settings: ModelSettings,
    dtype: DTypeLike,
    mesh: Mesh,
) -> Listener:
    if not isinstance(asked, ListenerSpec):
        asked = ListenerSpec(str(asked), style=settings.listener_style)
    return make_listener(
        _listening_model(asked, own, dtype, mesh),
        asked,
        own.tokenizer,
        own.model.config,
        prompts=settings.prompts,
        completion_length=settings.completion_length,
    )


def _listening_model(
    asked: ListenerSpec, own: FrozenModel, dtype: DTypeLike, mesh: Mesh
) -> FrozenModel:
    """The reasoner itself where the listener is to be that, else another."""
    folder = model_folder(asked.path) if asked.path else Path(own.checkpoint)
    if folder == Path(own.checkpoint):
        return dataclasses.replace(own, same_tower=True)
    frozen = open_frozen(folder, dtype, mesh=mesh)
    return dataclasses.replace(frozen, same_tower=_equal_towers(frozen.params, own.params))


def _equal_towers(one: Mapping, other: Mapping) -> bool:
    """Whether the vision towers of two models are the same, as where training left them alone."""
    first, second = (_tower(params) for params in (one, other))
    return first.keys() == second.keys() and all(
        leaf.shape == second[path].shape and bool((leaf == second[path]).all())
        for path, leaf in first.items()
    )


def _tower(params: Mapping) -> dict[str, jax.Array]:
    flat = flatten_dict(params, sep="/")
    return {path: leaf for path, leaf in flat.items() if path.startswith("vision/")}


def _encoder(
    own: FrozenModel,
    listeners: Sequence[Listener],
    settings: ModelSettings,
    max_prompt_tokens: int | None,
) -> RequestEncoder:
    judges = [x.frozen for x in listeners if x.style == "judge"]
    asked = [(own, "reason"), *((judge, "judge") for judge in judges)]
    prompts = tuple(
        PromptEncoder(
            model.tokenizer,
            model.model.config,
            style,
            settings.prompt_tokens,
            settings.images.max_patches,
            settings.prompts,
        )
        for model, style in asked
    )
    trained = settings.prompt_tokens
    longest = WIDENED * trained if max_prompt_tokens is None else max_prompt_tokens
    return RequestEncoder(settings.images, prompts, longest, settings.criterion)
