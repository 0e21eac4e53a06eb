"""The jitted pieces that training and evaluation share, each compiled once per shape."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
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
from lrt_jax.rl.frozen import FrozenModel, FrozenPass, Reading, frozen_pass
from lrt_jax.rl.listener import (
    Listener,
    ListenerInput,
    continue_input,
    judge_input,
    tokens_without_trace,
)
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
      p_first_alone: float32 NumPy [B], the listeners' mean probability of the same where they read
        no trace; None where that is not asked.
      held_out: float32 NumPy [B, G], as `p_first` of the held-out listener, or None likewise.
      held_out_alone: float32 NumPy [B], as `p_first_alone` of the held-out listener.
    """

    p_first: Float[np.ndarray, "B G"] | None
    reference_logps: Float[Array, "B G t"] | None
    cut_traces: Int[np.ndarray, " B"]
    p_first_alone: Float[np.ndarray, " B"] | None = None
    held_out: Float[np.ndarray, "B G"] | None = None
    held_out_alone: Float[np.ndarray, " B"] | None = None


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
      held_out: a listener that evaluations alone ask, or None; as a `judge` it has the last of
        `Batch.listener_prompts`.
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
        held_out: Listener | None = None,
    ):
        self.model, self.tokenizer, self.answer_ids = model, tokenizer, answer_ids
        self.listeners, self.reference = tuple(listeners), reference
        self.mesh, self.seed, self.held_out = mesh, seed, held_out
        # Inputs keep their shardings; those of results are not left to the compiler.
        per_row = batch_sharding(mesh)
        self._encode = jax.jit(_encode, static_argnames="model", out_shardings=per_row)
        static = ("model", "group_size", "sampling")
        self._sample = jax.jit(_sample, static_argnames=static, out_shardings=per_row)
        static = ("model", "answer_ids", "temperature", "microbatches")
        self._frozen_pass = jax.jit(frozen_pass, static_argnames=static, out_shardings=per_row)
        self._append = jax.jit(_append, out_shardings=per_row)
        self._cast = jax.jit(
            lambda params: jax.tree.map(lambda x: x.astype(model.dtype), params),
            out_shardings=param_shardings(model, mesh, "sample"),
        )

    def asked_listeners(self, held_out: bool) -> tuple[Listener, ...]:
        """The listeners, and behind them the held-out one if it is to be asked and there is one."""
        return (*self.listeners, *([self.held_out] if held_out and self.held_out else []))

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

    def encode_images(
        self, params: Mapping, batch: Batch, *, held_out: bool = False
    ) -> dict[str | None, Features]:
        """Merged tokens of the images, each image once through each vision tower.

        Args:
          params: of the policy.
          batch: on devices.
          held_out: whether the held-out listener is to be asked too.

        Returns:
          Features by the checkpoint of the frozen model; the policy's by `POLICY`.
        """
        features = {POLICY: self._encode(self.model, params, batch.images)}
        reference = [self.reference] if self.reference else []
        listeners = self.asked_listeners(held_out)
        for frozen in [*(listener.frozen for listener in listeners), *reference]:
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
        readings = (Reading(batch.prompt, rollout.tokens, position),)
        inputs = (self.model, params, features, readings)
        [verdict], _ = self._frozen_pass(*inputs, answer_ids=self.answer_ids)
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
        alone: bool = False,
        held_out: bool = False,
    ) -> FrozenScores:
        """Asks the listeners and the reference.

        One pass answers for all listeners that are one model, and for the reference if it is that
        model too. A `continue` listener reads what the reference reads, unless it reads other
        tokens than were sampled.

        Args:
          batch: on devices.
          features: of `encode_images`.
          rollout: on devices.
          completions: what the rollout says.
          ask_listeners: whether to ask the listeners.
          reference_temperature: of the reference's log-probabilities; None asks for none.
          microbatches: parts of the batch that are passed one after the other.
          alone: whether to ask each listener also without a trace, as one more member of every
            group. No reference is asked then.
          held_out: whether to ask the held-out listener too.
        """
        listeners = self.asked_listeners(held_out) if ask_listeners else ()
        given = [self._input(listener, completions, rollout) for listener in listeners]
        verdicts, reference_logps = {}, None
        for asked in self._passes(batch, rollout, listeners, given, reference_temperature, alone):
            found, logps = self._pass(asked, features, microbatches)
            verdicts |= zip(asked.listeners, found, strict=True)
            reference_logps = reference_logps if logps is None else logps
        said = [verdicts[index] for index in range(len(listeners))]
        return self._scores(said, reference_logps, given, completions, alone)

    def _passes(
        self,
        batch: Batch,
        rollout: Rollout,
        listeners: Sequence[Listener],
        given: Sequence[ListenerInput],
        temperature: float | None,
        alone: bool,
    ) -> list[FrozenPass]:
        """What each frozen model is asked; see `score_frozen` for the arguments."""
        passes: dict[str, FrozenPass] = {}
        if temperature is not None:
            compared = FrozenPass(self.reference, temperature)
            compared.add(Reading(batch.prompt, rollout.tokens, None), None)
            passes[self.reference.checkpoint] = compared
        prompts = self._prompts(batch, listeners)
        for index, (listener, prompt) in enumerate(zip(listeners, prompts, strict=True)):
            reading = self._reading(listener, prompt, rollout, given[index], alone)
            frozen = listener.frozen
            asked = passes.setdefault(frozen.checkpoint, FrozenPass(frozen))
            if asked.temperature is not None and self._is_reference(listener, given[index]):
                asked.readings[0], asked.listeners[0] = reading, index
            else:
                asked.add(reading, index)
        return list(passes.values())

    def _pass(
        self, asked: FrozenPass, features: Mapping[str | None, Features], microbatches: int
    ) -> tuple[Sequence[Array | None], Array | None]:
        """What `frozen_pass` gives."""
        return self._frozen_pass(*asked.inputs(features), **asked.options(microbatches))

    def _scores(
        self,
        verdicts: Sequence[Array],
        reference_logps: Array | None,
        given: Sequence[ListenerInput],
        completions: Completions,
        alone: bool,
    ) -> FrozenScores:
        """Brings the verdicts to the host, for which it waits, and takes their mean."""
        said = rows_to_host(verdicts)
        cut = sum((x.cut for x in given), np.zeros(len(completions.choice), np.int64))
        if not (alone and said):
            return FrozenScores(self._mean(said), reference_logps, cut)
        with_trace, without = [x[:, :-1] for x in said], [x[:, -1] for x in said]
        is_asked = len(said) > len(self.listeners)
        measured = (with_trace.pop(), without.pop()) if is_asked else (None, None)
        return FrozenScores(
            self._mean(with_trace), reference_logps, cut, self._mean(without), *measured
        )

    def _mean(self, verdicts: Sequence[np.ndarray]) -> np.ndarray | None:
        """Over the listeners, by their shares; None without any verdict."""
        shares = [listener.share for listener in self.listeners]
        return np.average(verdicts, axis=0, weights=shares) if verdicts else None

    def _input(
        self, listener: Listener, completions: Completions, rollout: Rollout
    ) -> ListenerInput:
        if listener.style == "judge":
            return judge_input(completions, listener)
        return continue_input(completions, listener, lambda: rows_to_host(rollout.tokens))

    def _is_reference(self, listener: Listener, given: ListenerInput) -> bool:
        """Whether a listener of the reference's model reads what the reference reads, in all
        processes; a collective."""
        return listener.style == "continue" and not self._reads_anew(given)

    def _reads_anew(self, given: ListenerInput) -> bool:
        """Whether a listener reads other tokens than were sampled, in any process; a collective."""
        return any_process(given.tokens is not None, self.mesh)

    def all_gather(
        self, completions: Completions, scores: FrozenScores
    ) -> tuple[Completions, FrozenScores]:
        """The completions and scores of all processes, on every host."""
        p_first, cut = all_gather_rows((scores.p_first, scores.cut_traces), self.mesh)
        scores = dataclasses.replace(scores, p_first=p_first, cut_traces=cut)
        return all_gather_completions(completions, self.mesh), scores

    def _reading(
        self,
        listener: Listener,
        prompt: Prompt,
        rollout: Rollout,
        given: ListenerInput,
        alone: bool,
    ) -> Reading:
        """What a listener reads, on devices; `alone` without a trace too."""
        tokens, position = rollout.tokens, given.answer_position
        if given.tokens is not None:
            tokens = shard_local_batch(given.tokens, self.mesh)
        if alone:
            tokens, position = self._with_bare(tokens, position, tokens_without_trace(listener))
        return Reading(prompt, tokens, shard_local_batch(position, self.mesh))

    def _with_bare(
        self, tokens: Int[Array, "B G t"], position: Int[np.ndarray, "B G"], bare: Sequence[int]
    ) -> tuple[Int[Array, "B H t"], Int[np.ndarray, "B H"]]:
        """A group with one more member, which reads the same few tokens for each pair.

        Where they leave no room for a verdict, as they do for no completion that has an answer,
        they are cut.
        """
        width = tokens.shape[-1]
        member = np.zeros(width, np.int32)
        member[: len(bare)] = bare[:width]
        end = np.full((len(position), 1), min(len(bare), width - 1), np.int32)
        tokens = self._append(tokens, replicate(member, self.mesh))
        return tokens, np.concatenate([position, end], axis=1)

    def _prompts(self, batch: Batch, listeners: Sequence[Listener]) -> list[Prompt]:
        """The prompt of each listener."""
        judge_prompts = iter(batch.listener_prompts)
        return [next(judge_prompts) if x.style == "judge" else batch.prompt for x in listeners]


def _append(tokens: Int[Array, "B G t"], member: Int[Array, " t"]) -> Int[Array, "B H t"]:
    """Groups with a member of the same tokens for all."""
    last = jnp.broadcast_to(member, (tokens.shape[0], 1, tokens.shape[-1]))
    return jnp.concatenate([tokens, last], axis=1)


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
