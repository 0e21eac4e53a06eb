"""A step on shapes alone: the functions that it compiles, and what lives on the devices meanwhile.

Nothing is computed. `lrt_jax.planning` compiles what is traced here, for devices that nobody has.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Traced
from jax.typing import DTypeLike

from lrt_jax.data.schema import Batch, Target
from lrt_jax.models import Images, Prompt, VisionLanguageModel
from lrt_jax.models.api import Features, FlopCounter, Flops, ModelConfig
from lrt_jax.models.families import family
from lrt_jax.parallel.collectives import batch_sharding
from lrt_jax.rl.engine import Engine, FrozenScores
from lrt_jax.rl.frozen import FrozenModel, FrozenPass, Reading
from lrt_jax.rl.listener import Listener
from lrt_jax.rl.rollout import Rollout, SamplingConfig

COPY = "copy for sampling"  # what the policy's copy in the sampling layout is called


@dataclasses.dataclass(frozen=True)
class Piece:
    """A function that a run compiles, with shapes for arguments.

    Attributes:
      name: for people.
      traced: the function on its arguments.
      arguments: arrays that it is given, in order.
      static: what it is given by name, which are no arrays.
      alive: what is on the devices while it runs, by name; arguments may be among it.
      flops: that it is worth, on all devices.
      attention: forward attention of one pass as kernels compute it, on all devices.
      tokens: how often its loop over tokens turns at most; None without one.
      cache_bytes: that a turn of that loop reads of caches, on all devices.
      calls: how often a step, or a batch of an evaluation, calls it.
      evaluates: whether it belongs to evaluations.
    """

    name: str
    traced: Traced
    arguments: Sequence[jax.ShapeDtypeStruct]
    static: Mapping[str, Any]
    alive: Mapping[str, Any]
    flops: float
    attention: float
    tokens: int | None = None
    cache_bytes: float = 0.0
    calls: int = 1
    evaluates: bool = False


class Trace:
    """Collects pieces in the order in which they run.

    Args:
      mesh: of the devices.

    Attributes:
      pieces: so far.
      evaluates: whether what follows belongs to evaluations.
    """

    def __init__(self, mesh: Mesh):
        self.mesh, self.evaluates = mesh, False
        self.pieces: list[Piece] = []
        self._alive: dict[str, Any] = {}
        self._names: Counter[str] = Counter()

    def begin_evaluation(self) -> None:
        """Says that what follows belongs to an evaluation; nothing is held any more."""
        self.evaluates = True
        self._alive.clear()

    def hold(self, name: str, tree: Any) -> None:
        """Says that arrays live from here on, in place of those of the same name."""
        self._alive[name] = tree

    def release(self, name: str) -> None:
        """Says that they live no longer."""
        self._alive.pop(name, None)

    def rows(self, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        """An array that is sharded by its rows."""
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=batch_sharding(self.mesh))

    def replicated(self, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        """An array that every device has whole."""
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)

    def call(
        self,
        name: str,
        jitted: Callable,
        *args: Any,
        flops: Flops,
        in_kernels: Flops | None = None,
        passes: float = 1.0,
        static: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> Any:
        """Traces a call, and returns the shapes of its results.

        Args:
          name: of the piece; a second one of that name is numbered.
          jitted: made by `jax.jit`.
          *args: as a run gives them, with shapes for arrays.
          flops: of its forward pass, on all devices.
          in_kernels: whose attention kernels may compute, where that is not all of it.
          passes: forward passes that it is worth; a gradient is worth two more.
          static: arguments by name.
          **facts: further fields of `Piece`.
        """
        traced = jitted.trace(*args, **(static or {}))
        arguments = [x for x in jax.tree.leaves(args) if isinstance(x, jax.ShapeDtypeStruct)]
        kernels = flops if in_kernels is None else in_kernels
        name = f"eval_{name}" if self.evaluates else name
        self._names[name] += 1
        number = f"_{self._names[name]}" if self._names[name] > 1 else ""
        self.pieces.append(
            Piece(
                name=name + number,
                traced=traced,
                arguments=arguments,
                static=static or {},
                alive=dict(self._alive),
                flops=flops.total * passes,
                attention=kernels.attention + kernels.masked,
                evaluates=self.evaluates,
                **facts,
            )
        )
        return traced.out_info


def counter_of(config: ModelConfig) -> FlopCounter:
    """Counts FLOPs of a model.

    Raises:
      ValueError: its family does not say how.
    """
    counter = family(config).flops
    if counter is None:
        raise ValueError(
            f"model_type {config.model_type!r}: its FAMILY has no `flops`, without which a run "
            "cannot be planned; write what lrt_jax/models/api.py calls a FlopCounter"
        )
    return counter(config)


class TracedEngine(Engine):
    """An engine whose calls take shapes and are traced; see `Engine` for the arguments."""

    def __init__(
        self,
        trace: Trace,
        model: VisionLanguageModel,
        answer_ids: tuple[int, int],
        listeners: Sequence[Listener],
        reference: FrozenModel | None,
        held_out: Listener | None = None,
    ):
        super().__init__(model, None, answer_ids, listeners, reference, trace.mesh, 0, held_out)
        self._trace = trace
        encode, cast = self._encode, self._cast

        def traced_encode(model: VisionLanguageModel, params: Mapping, images: Images) -> Features:
            pairs, count, patches = images.patches.shape[:3]
            flops = counter_of(model.config).encode_images(pairs * count, patches)
            return trace.call("encode", encode, model, params, images, flops=flops)

        self._encode = traced_encode
        self._cast = lambda params: trace.call("copy", cast, params, flops=Flops())

    @functools.cached_property
    def _quantise(self) -> Callable[[Mapping], Mapping]:
        quantise = Engine._quantise.func(self)
        return lambda params: self._trace.call("copy", quantise, params, flops=Flops())

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
        """As `Engine.sample`."""
        pairs, prompt = batch.prompt.tokens.shape
        sizes = (pairs, group_size, prompt, sampling.max_tokens)
        counter = counter_of(self.model.config)
        seeds = self._trace.replicated((3,), "uint32")
        inputs = (batch.prompt, batch.target, features)
        sampler = self.model.copy(sharding=batch_sharding(self.mesh, "sample"))
        return self._trace.call(
            "rollout",
            self._sample,
            *(sampler, params, inputs, seeds, group_size, sampling),
            flops=counter.prefill(pairs, prompt) + counter.decode(*sizes),
            in_kernels=counter.prefill(pairs, prompt),  # no kernel decodes
            tokens=sampling.max_tokens,
            cache_bytes=counter.cache_values(*sizes) * jnp.dtype(self.model.dtype).itemsize,
        )

    def _input(self, listener: Listener, completions: None, rollout: Rollout) -> None:
        """Nothing: what a listener reads is known from the sizes."""

    def _reads_anew(self, given: None) -> bool:
        """A `continue` listener is taken to read what was sampled."""
        return False

    def _reading(
        self, listener: Listener, prompt: Prompt, rollout: Rollout, given: None, alone: bool
    ) -> Reading:
        pairs, group, sampled = rollout.tokens.shape
        group += alone  # one member more reads no trace
        width = listener.width if listener.style == "judge" else sampled
        tokens, position = (
            self._trace.rows(shape, "int32") for shape in ((pairs, group, width), (pairs, group))
        )
        return Reading(prompt, tokens, position)

    def _pass(
        self, asked: FrozenPass, features: Mapping[str | None, Features], microbatches: int
    ) -> tuple[Sequence[jax.ShapeDtypeStruct | None], jax.ShapeDtypeStruct | None]:
        inputs = model, *_, readings = asked.inputs(features)
        counter, flops = counter_of(model.config), Flops()
        for prompt, tokens, _ in readings:
            pairs, group, width = tokens.shape
            flops += counter.score_group(pairs, group, prompt.tokens.shape[-1], width)
        if asked.temperature is not None:
            flops += counter.logits(readings[0].tokens.size)
        static = asked.options(microbatches)
        return self._trace.call(
            self._name(asked), self._frozen_pass, *inputs, flops=flops, static=static
        )

    def _name(self, asked: FrozenPass) -> str:
        """Of a pass: the roles that it is for."""
        roles = ["reference"] if asked.temperature is not None else []
        every = self.asked_listeners(held_out=True)
        listeners = [every[x] for x in asked.listeners if x is not None]
        roles += ["held_out" if x is self.held_out else "listener" for x in listeners]
        return "_".join(dict.fromkeys(roles))

    def _scores(
        self,
        verdicts: Sequence[jax.ShapeDtypeStruct],
        reference_logps: jax.ShapeDtypeStruct | None,
        given: Sequence[None],
        completions: None,
        alone: bool,
    ) -> FrozenScores:
        """Shapes on devices alone."""
        return FrozenScores(None, reference_logps, None)


def traced_batch(
    trace: Trace, config: ModelConfig, pairs: int, patches: int, prompt: int, judges: Sequence[int]
) -> Batch:
    """A batch of shapes.

    Args:
      trace: that it is for.
      config: of the model that is shown its images.
      pairs: rows.
      patches: of an image.
      prompt: tokens of the reasoner's prompts.
      judges: tokens of the prompts of each listener that has its own.
    """
    return Batch(
        images=Images(
            patches=trace.rows((pairs, 2, patches, config.vision.patch_dim), "uint8"),
            coords=trace.rows((pairs, 2, patches, 2), "int32"),
            window=trace.rows((pairs, 2, patches), "int32"),
        ),
        prompt=_prompt(trace, pairs, prompt),
        listener_prompts=tuple(_prompt(trace, pairs, tokens) for tokens in judges),
        target=Target(
            p_first=trace.rows((pairs,), "float32"),
            label=trace.rows((pairs,), "int32"),
            pair=trace.rows((pairs,), "int32"),
            swapped=trace.rows((pairs,), "bool"),
            weight=trace.rows((pairs,), "float32"),
            letterboxed=trace.rows((pairs,), "bool"),
        ),
    )


def _prompt(trace: Trace, pairs: int, tokens: int) -> Prompt:
    return Prompt(
        tokens=trace.rows((pairs, tokens), "int32"),
        positions=trace.rows((pairs, 3, tokens), "int32"),
        image_index=trace.rows((pairs, tokens), "int32"),
        length=trace.rows((pairs,), "int32"),
    )
