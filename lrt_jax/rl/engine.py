"""The jitted pieces that training and evaluation share, each compiled once per shape."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.config.choices import SamplingWeights
from lrt_jax.data.schema import Batch, Target
from lrt_jax.models import (
    BoundModel,
    Prompt,
    VisionLanguageModel,
    param_shardings,
    quantised_params,
    quantised_shardings,
)
from lrt_jax.models.api import Features
from lrt_jax.parallel.collectives import (
    all_gather_rows,
    any_process,
    batch_sharding,
    replicate,
    rows_to_host,
    shard_local_batch,
)
from lrt_jax.rl.completions import Completions, all_gather_completions, decode_completions
from lrt_jax.rl.frozen import FrozenModel, frozen_pass
from lrt_jax.rl.listener import Listener, ListenerInput, continue_input, judge_input
from lrt_jax.rl.rollout import Rollout, SamplingConfig, completion_keys, sample_completions

POLICY = None  # key of the features that the policy's tower makes


@dataclasses.dataclass(frozen=True)
class FrozenScores:
    """What the frozen models say of a rollout.

    Attributes:
      p_first: float32 NumPy [B, G], the listeners' mean probability that the first image shown is
        preferred; None without listeners. It means nothing where a completion has no choice.
      reference_logps: float32 [B, G, t] on devices, or None without a reference.
      cut_traces: NumPy [B], how many traces of each group a listener could not read to their end.
    """

    p_first: Float[np.ndarray, "B G"] | None
    reference_logps: Float[Array, "B G t"] | None
    cut_traces: Int[np.ndarray, " B"]


class Engine:
    """Samples from the policy, decodes what it sampled, and scores it with the frozen models.

    Attributes:
      model: the policy's module, its batch sharded for training.
      tokenizer: the policy's.
      answer_ids: ids of its two answers.
      listeners: whom to ask; the `judge` ones in the order of `Batch.listener_prompts`.
      reference: the policy's frozen starting point, or None where no KL term needs it.
      mesh: devices.
      seed: of all sampling.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: PreTrainedTokenizerBase,
        answer_ids: tuple[int, int],
        listeners: Sequence[Listener],
        reference: FrozenModel | None,
        mesh: Mesh,
        seed: int,
    ):
        self.model, self.tokenizer, self.answer_ids = model, tokenizer, answer_ids
        self.listeners, self.reference = tuple(listeners), reference
        self.mesh, self.seed = mesh, seed
        # Inputs keep their shardings; those of results are not left to the compiler.
        per_row = batch_sharding(mesh)
        self._encode = jax.jit(_encode, static_argnames="model", out_shardings=per_row)
        static = ("model", "group_size", "sampling")
        self._sample = jax.jit(_sample, static_argnames=static, out_shardings=per_row)
        static = ("model", "answer_ids", "temperature", "microbatches")
        self._frozen_pass = jax.jit(frozen_pass, static_argnames=static, out_shardings=per_row)
        self._cast = jax.jit(
            lambda params: jax.tree.map(lambda x: x.astype(model.dtype), params),
            out_shardings=param_shardings(model, mesh, "sample"),
        )

    @functools.cached_property
    def _quantise(self) -> Callable[[Mapping], Mapping]:
        """Jitted, so that no other copy is made on the way."""
        shardings = quantised_shardings(self.model, self.mesh, "sample")
        return jax.jit(functools.partial(quantised_params, self.model), out_shardings=shardings)

    def sampler_params(self, params: Mapping, weights: SamplingWeights = "full") -> Mapping:
        """The policy's parameters in the layout and dtype of sampling, copied over once a step.

        Args:
          params: in the layout of training.
          weights: of the copy, see `SamplingOptions`.
        """
        if weights == "int8":
            return self._quantise(params)
        same_dtype = all(leaf.dtype == self.model.dtype for leaf in jax.tree.leaves(params))
        return params if self.mesh.size == 1 and same_dtype else self._cast(params)

    def encode_images(self, params: Mapping, batch: Batch) -> dict[str | None, Features]:
        """Merged tokens of the images, each image once through each vision tower.

        Returns:
          Features by the checkpoint of the frozen model; the policy's by `POLICY`.
        """
        features = {POLICY: self._encode(self.model, params, batch.images)}
        reference = [self.reference] if self.reference else []
        for frozen in [*(listener.frozen for listener in self.listeners), *reference]:
            if frozen.same_tower:
                features[frozen.checkpoint] = features[POLICY]
            elif (name := frozen.checkpoint) not in features:
                features[name] = self._encode(frozen.model, frozen.params, batch.images)
        return features

    def sample(
        self,
        params: Mapping,
        batch: Batch,
        features: Features,
        group_size: int,
        sampling: SamplingConfig,
        stream: int,
        step: int,
    ) -> Rollout:
        """Completions of each prompt; the same for equal seed, stream, step, pair and member."""
        seeds = replicate(np.array([self.seed, stream, step], np.uint32), self.mesh)
        inputs = (batch.prompt, batch.target, features)
        sampler = self.model.copy(sharding=batch_sharding(self.mesh, "sample"))
        return self._sample(sampler, params, inputs, seeds, group_size, sampling)

    def decode_rollout(self, rollout: Rollout) -> Completions:
        """Brings a rollout to the host, for which it waits, and parses it."""
        return decode_completions(rows_to_host(rollout), self.tokenizer)

    def answer_probability(
        self,
        params: Mapping,
        batch: Batch,
        features: Features,
        rollout: Rollout,
        completions: Completions,
    ) -> Float[np.ndarray, "B G"]:
        """The policy's own probability that the first image shown is preferred, after its trace.

        NaN where the completion has no answer token.
        """
        position = shard_local_batch(completions.answer_position, self.mesh)
        inputs = (self.model, params, batch.prompt, features, rollout.tokens, position)
        verdict, _ = self._frozen_pass(*inputs, answer_ids=self.answer_ids)
        return np.where(completions.answer_position >= 0, rows_to_host(verdict), np.nan)

    def score_frozen(
        self,
        batch: Batch,
        features: Mapping[str | None, Features],
        rollout: Rollout,
        completions: Completions,
        *,
        ask_listeners: bool = True,
        reference_temperature: float | None = None,
        microbatches: int = 1,
    ) -> FrozenScores:
        """Asks the listeners and the reference.

        One pass answers for a `continue` listener and the reference where both are one model,
        unless the listener reads other tokens than were sampled.

        Args:
          batch: on devices.
          features: of `encode_images`.
          rollout: on devices.
          completions: what the rollout says.
          ask_listeners: whether to ask the listeners.
          reference_temperature: of the reference's log-probabilities; None asks for none.
          microbatches: parts of the batch that are passed one after the other.
        """
        verdicts, shares, reference_logps = [], [], None
        cut = np.zeros(len(completions.choice), np.int64)
        asked = zip(self.listeners, self._prompts(batch), strict=True) if ask_listeners else ()
        for listener, prompt in asked:
            given = self._input(listener, completions, rollout)
            cut = cut + given.cut
            compares = reference_temperature is not None
            is_reference = compares and self._is_reference(listener, given)
            temperature = reference_temperature if is_reference else None
            verdict, logps = self._ask(
                listener.frozen, prompt, features, rollout, given, temperature, microbatches
            )
            reference_logps = logps if is_reference else reference_logps
            verdicts.append(verdict)
            shares.append(listener.share)
        if reference_temperature is not None and reference_logps is None:
            as_sampled = ListenerInput(None, completions.answer_position, cut)
            _, reference_logps = self._ask(
                self.reference,
                batch.prompt,
                features,
                rollout,
                as_sampled,
                reference_temperature,
                microbatches,
            )
        mean = np.average(rows_to_host(verdicts), axis=0, weights=shares) if verdicts else None
        return FrozenScores(mean, reference_logps, cut)

    def _input(
        self, listener: Listener, completions: Completions, rollout: Rollout
    ) -> ListenerInput:
        if listener.style == "judge":
            return judge_input(completions, listener)
        return continue_input(completions, listener, lambda: rows_to_host(rollout.tokens))

    def _is_reference(self, listener: Listener, given: ListenerInput) -> bool:
        """Whether a listener is the reference and reads what was sampled, in all processes; a
        collective."""
        same = listener.frozen is self.reference and listener.style == "continue"
        return same and not any_process(given.tokens is not None, self.mesh)

    def all_gather(
        self, completions: Completions, scores: FrozenScores
    ) -> tuple[Completions, FrozenScores]:
        """The completions and scores of all processes, on every host."""
        p_first, cut = all_gather_rows((scores.p_first, scores.cut_traces), self.mesh)
        scores = dataclasses.replace(scores, p_first=p_first, cut_traces=cut)
        return all_gather_completions(completions, self.mesh), scores

    def _ask(
        self,
        frozen: FrozenModel,
        prompt,
        features,
        rollout,
        given: ListenerInput,
        temperature,
        microbatches,
    ):
        tokens, position = (rollout.tokens, shard_local_batch(given.answer_position, self.mesh))
        if given.tokens is not None:
            tokens = shard_local_batch(given.tokens, self.mesh)
        own, ids = features[frozen.checkpoint], frozen.answer_ids
        inputs = (frozen.model, frozen.params, prompt, own, tokens, position)
        return self._frozen_pass(
            *inputs, answer_ids=ids, temperature=temperature, microbatches=microbatches
        )

    def _prompts(self, batch: Batch) -> list[Prompt]:
        """The prompt of each listener."""
        judge_prompts = iter(batch.listener_prompts)
        return [next(judge_prompts) if x.style == "judge" else batch.prompt for x in self.listeners]


def _encode(model: VisionLanguageModel, params: Mapping, images) -> Features:
    return BoundModel(model, params).encode_images(images)


def _sample(
    model: VisionLanguageModel,
    params: Mapping,
    inputs: tuple[Prompt, Target, Features],
    seeds: Array,
    group_size: int,
    sampling: SamplingConfig,
) -> Rollout:
    """A rollout of `model`, which lives in the sampling layout; inputs are brought there."""
    prompt, target, features = jax.lax.with_sharding_constraint(inputs, model.sharding)
    key = jax.random.key(seeds[0])
    for number in (seeds[1], seeds[2]):
        key = jax.random.fold_in(key, number)
    keys = completion_keys(key, target.pair, target.swapped, group_size)
    return sample_completions(model, params, prompt, features, keys, sampling)
