"""Reads requests with the models: one batch of one compiled shape at a time."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from lrt_jax.data.schema import NO_CHOICE, Batch, Prompt, Target
from lrt_jax.inference.answers import ORDERS, Answers, Forcing, comparisons, read_answers
from lrt_jax.inference.features import FeatureCache
from lrt_jax.inference.requests import Request, ShownImage
from lrt_jax.inference.results import Comparison
from lrt_jax.models.inputs import Images
from lrt_jax.parallel.collectives import batch_sharding, rows_to_host, shard_local_batch
from lrt_jax.rl.engine import POLICY, Engine
from lrt_jax.rl.nonfinite import NotFiniteError
from lrt_jax.rl.rollout import Rollout, SamplingConfig

STREAM = 2  # of random numbers; training and evaluations have others
BLOCK = 8  # images that are encoded together, or as many as two for each device
GREEDY = {"temperature": 0.0, "top_p": 1.0}  # of one vote


class Reader:
    """The reasoner, and the listener if there is one, as they are asked about pairs.

    Every batch has `2 * batch_size` rows, one for each order of a request. The row of a request
    depends, bit for bit, neither on the others nor on where it stands.

    Args:
      engine: reasoner, listener and devices.
      params: of the reasoner.
      sampling: of more than one vote.
      batch_size: requests of a batch.

    Attributes:
      batch_size: requests of a batch.
      images_encoded: images that went through the reasoner's vision tower so far, but for those
        that only fill up a batch.

    Raises:
      ValueError: the devices cannot share a batch.
    """

    def __init__(
        self,
        engine: Engine,
        params: Mapping,
        sampling: SamplingConfig,
        batch_size: int,
    ):
        mesh, tokenizer = engine.mesh, engine.tokenizer
        if batch_size < 1 or 2 * batch_size % mesh.size:
            raise ValueError(
                f"batch_size={batch_size}: {mesh.size} devices share the 2 x batch_size rows of a "
                f"batch; take a multiple of {max(1, mesh.size // 2)}"
            )
        self.batch_size, self.images_encoded = batch_size, 0
        self._engine, self._params = engine, params
        self._sampler_params = engine.sampler_params(params)
        self._sampling = dataclasses.replace(sampling, answer_ids=engine.answer_ids)
        self._block = max(BLOCK, 2 * mesh.size)
        self._forcing = Forcing(tokenizer, engine.answer_ids, sampling)
        own_towers = (x.frozen for x in engine.listeners if not x.frozen.same_tower)
        self._towers = (POLICY, *dict.fromkeys(frozen.checkpoint for frozen in own_towers))
        whole = NamedSharding(mesh, PartitionSpec())
        self._split = jax.jit(_split_images, out_shardings=whole)
        self._join = jax.jit(_join_pairs, out_shardings=batch_sharding(mesh))

    def feature_cache(self, capacity: int = 0) -> FeatureCache:
        """For the images of a call, see `FeatureCache`.

        Args:
          capacity: images that it keeps; at least those of a few batches.
        """
        return FeatureCache(self._encode, self._block, max(capacity, 8 * self.batch_size))

    def read(
        self, requests: Sequence[Request], images: FeatureCache, *, force: bool = False
    ) -> list[Comparison]:
        """Answers at most `batch_size` requests of one shape.

        Args:
          requests: what to compare.
          images: of the call.
          force: take no completion for answered, as if each had ended too early.

        Raises:
          NotFiniteError: a probability is NaN or infinite.
        """
        rows = [
            (request, order)
            for request in itertools.islice(itertools.cycle(requests), self.batch_size)
            for order in ORDERS
        ]
        features = self._features(rows, images)
        batch = self._batch(rows)
        votes = requests[0].votes
        sampling = self._sampling if votes > 1 else dataclasses.replace(self._sampling, **GREEDY)
        parts = self._sampler_params, batch, features[POLICY], votes, sampling, STREAM, 0
        rollout = rows_to_host(self._engine.sample(*parts))
        answers = self._answers(batch, features, rollout, force)
        listener = self._listen(batch, features, answers)
        return comparisons(answers, listener, len(requests))

    def _features(self, rows: Sequence[tuple[Request, bool]], images: FeatureCache) -> dict:
        """Of both images of each row as they are shown, by the names of the towers."""
        shown = [x for request, swapped in rows for x in request.images[:: -1 if swapped else 1]]
        features = dict(zip(self._towers, self._join(images.get(shown)), strict=True))
        same = {x.frozen.checkpoint: features[POLICY] for x in self._engine.listeners}
        return same | features

    def _batch(self, rows: Sequence[tuple[Request, bool]]) -> Batch:
        """On devices, without images, which are encoded already."""
        prompts = [request.prompts[swapped] for request, swapped in rows]
        prompt, *listener_prompts = (_stacked(column) for column in zip(*prompts, strict=True))
        seeds = np.array([request.seed for request, _ in rows], np.int32)
        nothing = np.zeros(len(rows), np.float32)
        # Sampling goes by the pair's number; that of both orders is the request's.
        target = Target(nothing, nothing, seeds, np.zeros(len(rows), bool), nothing)
        batch = Batch(None, prompt, tuple(listener_prompts), target)
        return shard_local_batch(batch, self._engine.mesh)

    def _encode(self, shown: Sequence[ShownImage]) -> list[tuple]:
        """Features of each image, by all towers."""
        self.images_encoded += len(shown)
        padded = itertools.islice(itertools.cycle(shown), self._block)
        columns = zip(*(x.encoded for x in padded), strict=True)
        pairs = Images(*(_in_pairs(np.stack(column)) for column in columns))
        batch = Batch(shard_local_batch(pairs, self._engine.mesh), None, (), None)
        features = self._engine.encode_images(self._params, batch)
        split = self._split(tuple(features[name] for name in self._towers))
        return split[: len(shown)]

    def _answers(self, batch: Batch, features: dict, rollout: Rollout, force: bool) -> Answers:
        """What a rollout says; completions without an answer are given one."""
        answers = read_answers(rollout, self._engine.tokenizer, self._forcing.width)
        if force:
            answers.forced[:] = True
        if answers.forced.any():
            opened = self._forcing.open_answers(answers)
            on_devices = shard_local_batch(opened.rollout, self._engine.mesh)
            parts = self._params, batch, features[POLICY], on_devices, opened.completions
            answers = self._forcing.close_answers(opened, self._engine.answer_probability(*parts))
        if not np.isfinite(answers.probability).all():
            what = "the model's probability of its answer is not finite"
            raise NotFiniteError(f"{what}; its weights or its dtype do not work")
        return answers

    def _listen(
        self, batch: Batch, features: dict, answers: Answers
    ) -> Float[np.ndarray, "B G"] | None:
        """The listener's probability of the first image shown; NaN where there is no trace."""
        if not self._engine.listeners:
            return None
        on_devices = shard_local_batch(answers.rollout, self._engine.mesh)
        scores = self._engine.score_frozen(batch, features, on_devices, answers.completions)
        return np.where(answers.completions.choice == NO_CHOICE, np.nan, scores.p_first)


def _stacked(prompts: Sequence[Prompt]) -> Prompt:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *prompts)


def _in_pairs(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, 2, *images.shape[1:])


def _split_images(features: tuple) -> list[tuple]:
    """Features of pairs [P, 2 m, ...] to those of images [m, ...]."""
    images = jax.tree.map(lambda x: x.reshape(2 * len(x), -1, *x.shape[2:]), features)
    count = len(jax.tree.leaves(images)[0])
    return [jax.tree.map(lambda x, i=i: x[i], images) for i in range(count)]


def _join_pairs(images: list[tuple]) -> tuple:
    """The other way round."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    return jax.tree.map(lambda x: x.reshape(len(x) // 2, -1, *x.shape[2:]), stacked)
