"""The jitted pieces of a step on a small model, for tests that run or only compile them.

Sizes differ from one another, so that shapes can be told apart in a compiled program; a weight of
one layer has more elements than any activation of one token.
"""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh

from lrt_jax import assets
from lrt_jax.algorithms.optimizer import make_optimizer
from lrt_jax.algorithms.state import TrainState, initial_state
from lrt_jax.algorithms.update import Updater
from lrt_jax.config import LossConfig, OptimizerOptions
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.schema import Batch, Target
from lrt_jax.models import Images, Prompt, init_params, param_shardings
from lrt_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig
from lrt_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from lrt_jax.parallel.collectives import batch_sharding, shard_local_batch
from lrt_jax.rl.engine import Engine
from lrt_jax.rl.learner import Experience
from lrt_jax.rl.rollout import SamplingConfig

PAIRS, GROUP, TIME, PROMPT, PATCHES = 4, 3, 150, 24, 64
VOCABULARY = 1004
SAMPLING = SamplingConfig(max_tokens=TIME, stop_ids=(7,))
CONFIG = ModelConfig(
    vision=VisionConfig(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=128,
        full_attention_layers=(1,),
    ),
    text=TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=320,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        mrope_section=(8, 4, 4),
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    ),
    image_token_id=3,
    video_token_id=4,
)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A model on a mesh, in the layout of training, and a batch."""

    mesh: Mesh
    engine: Engine
    params: dict
    batch: Batch

    @property
    def model(self) -> Qwen2_5_VL:
        return self.engine.model

    def learner(self, *, freeze: tuple[str, ...] = ("vision",)) -> tuple[TrainState, Updater]:
        optimizer = make_optimizer(OptimizerOptions(), 2)
        state = initial_state(self.params, freeze, optimizer, self.mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        loss = LossConfig(beta=0.1, num_iterations=2)
        return state, Updater(self.model, optimizer, loss, 1.0, self.mesh, shardings)

    def experience(self, features: jax.Array) -> Experience:
        rng = np.random.default_rng(1)
        shape = (PAIRS, GROUP, TIME)
        logps = rng.normal(-4.0, 0.3, (3, *shape)).astype(np.float32)
        arrays = dict(
            tokens=rng.integers(8, VOCABULARY, shape).astype(np.int32),
            length=rng.integers(1, TIME, shape[:2]).astype(np.int32),
            sampler_logps=logps[0],
            reference_logps=logps[1],
            old_logps=logps[2],
            advantages=rng.normal(size=shape[:2]).astype(np.float32),
        )
        arrays = shard_local_batch(arrays, self.mesh)
        return Experience(prompt=self.batch.prompt, images=None, features=features, **arrays)


def make_pieces(mesh: Mesh, *, rows: bool = True) -> Pieces:
    """Random weights; without `rows` the compiler may put activations where it likes."""
    model = Qwen2_5_VL(CONFIG, sharding=batch_sharding(mesh) if rows else None)
    shardings = param_shardings(model, mesh, "train")
    init = jax.jit(lambda key: init_params(model, key), out_shardings=shardings)
    params = init(jax.random.key(0))
    tokenizer = load_tokenizer(assets.tiny_model())
    engine = Engine(model, tokenizer, (5, 6), [], None, mesh, 0)
    return Pieces(mesh, engine, params, shard_local_batch(_batch(), mesh))


def _batch() -> Batch:
    """Prompts whose first tokens are their images."""
    rng = np.random.default_rng(0)
    merged = 2 * PATCHES // 4
    tokens = rng.integers(8, VOCABULARY, (PAIRS, PROMPT)).astype(np.int32)
    seen = np.where(np.arange(PROMPT) < merged // 2, np.arange(PROMPT), -1)
    coords = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2)
    shape = (PAIRS, 2, PATCHES)
    return Batch(
        prompt=Prompt(
            tokens=tokens,
            positions=np.broadcast_to(np.arange(PROMPT), (PAIRS, 3, PROMPT)).astype(np.int32),
            image_index=np.broadcast_to(seen, (PAIRS, PROMPT)).astype(np.int32),
            length=np.full(PAIRS, PROMPT - 2, np.int32),
        ),
        images=Images(
            patches=rng.integers(0, 256, (*shape, CONFIG.vision.patch_dim), dtype=np.uint8),
            coords=np.broadcast_to(coords, (*shape, 2)).astype(np.int32),
            window=np.zeros(shape, np.int32),
        ),
        target=Target(
            p_first=np.full(PAIRS, 0.75, np.float32),
            label=np.zeros(PAIRS, np.int32),
            pair=np.arange(PAIRS, dtype=np.int32),
            swapped=np.zeros(PAIRS, bool),
            weight=np.ones(PAIRS, np.float32),
        ),
        listener_prompts=(),
    )
