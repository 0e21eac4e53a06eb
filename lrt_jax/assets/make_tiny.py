"""Makes the built-in model again: random weights that have learnt how a reply looks, and no more.

    python -m lrt_jax.assets.make_tiny --output=lrt_jax/assets/tiny

It is taught on noise with made-up captions, so it answers in the form that is asked for and by
chance: every stage of a run then has something to work on, on any machine. Takes a few minutes.
"""

import json
import random
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from tqdm import tqdm

from lrt_jax import commands
from lrt_jax.assets.tokenizer import WORDS, write_tokenizer
from lrt_jax.data.conversation import PromptEncoder, load_tokenizer
from lrt_jax.data.images import encode_pair, read_image_policy
from lrt_jax.data.tokenizer import token_ids
from lrt_jax.models import Images, Prompt, Qwen2_5_VL, init_params, read_config, save_pretrained
from lrt_jax.training.supervised import Lessons, supervised_loss

MAX_PIXELS = 224 * 224
MAX_PATCHES, PROMPT_TOKENS, MAX_TOKENS = 256, 448, 32
# How sure the traces are of their verdict, and how often the answer follows it: enough for a
# listener to read something out of a trace, and for answers to contradict it now and then.
FOLLOWS_VERDICT = 0.85
CAPTIONS = (
    "A {style} of a {quality} {object} {relation} a {colour} {object}.",
    "a {colour} {shape} {relation} a {colour} {shape}, {place}",
    "a {style} of {number} {objects} {action} {relation} a {object}",
    "a {object} {action} {relation} the {setting}, {light}, {manner}",
)
REASONS = ("it follows the caption", "it shows the caption", "its details are better",
           "its colours are natural", "the other is blurry", "the other misses it")  # fmt: skip


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "output", "Folder to write.")
    flags.DEFINE_integer("steps", 300, "Updates.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of weights and lessons.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    commands.start()
    write_tiny(Path(values.output), steps=values.steps, seed=values.seed)


def write_tiny(folder: Path, *, steps: int, seed: int = 0) -> Path:
    """Writes the model in the hub's layout; with `steps=0` its weights are random."""
    source = folder.with_name(f".{folder.name}.source")
    try:
        tokenizer = write_tokenizer(source, max_pixels=MAX_PIXELS)
        (source / "config.json").write_text(json.dumps(hub_config(tokenizer), indent=2) + "\n")
        model = Qwen2_5_VL(read_config(source))
        params = init_params(model, jax.random.key(seed))
        if steps:
            params = teach_form(model, params, Teacher(source, seed), steps)
        card = CARD.format(steps=steps, seed=seed)
        save_pretrained(params, folder, source=source, card=card, dtype=jnp.bfloat16)
    finally:
        shutil.rmtree(source, ignore_errors=True)
    return folder


def hub_config(tokenizer) -> dict:
    """Sizes, laid out as on the hub: the decoder's fields at the top."""
    names = ("endoftext", "im_end", "image_pad", "video_pad", "vision_start", "vision_end")
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]},
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": len(tokenizer),
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "vision_config": {
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 96,
            "hidden_act": "silu",
            "in_chans": 3,
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "model_type": "qwen2_5_vl",
        },
    }


class Teacher:
    """Makes lessons: noise for images, made-up captions, replies in the right form.

    Args:
      folder: of the model, for its tokenizer and image sizes.
      seed: of everything that is drawn.
    """

    BATCH, GROUP = 8, 8

    def __init__(self, folder: Path, seed: int):
        self._config = read_config(folder)
        self._tokenizer = load_tokenizer(folder)
        self._policy = read_image_policy(folder, MAX_PATCHES)
        self._encoder = PromptEncoder(
            self._tokenizer, self._config, "reason", PROMPT_TOKENS, MAX_PATCHES
        )
        self._stop = self._tokenizer.convert_tokens_to_ids("<|im_end|>")
        self._words = random.Random(seed)
        self._noise = np.random.default_rng(seed)

    def lessons(self) -> Lessons:
        """One batch."""
        rows = [self._pair() for _ in range(self.BATCH)]
        images, prompts = (
            jax.tree.map(lambda *x: np.stack(x), *part) for part in zip(*rows, strict=True)
        )
        replies = [self._reply() for _ in range(self.BATCH * self.GROUP)]
        tokens = np.zeros((len(replies), MAX_TOKENS), np.int32)
        for row, reply in zip(tokens, replies, strict=True):
            row[: len(reply)] = reply
        shape = (self.BATCH, self.GROUP)
        length = np.array([len(reply) for reply in replies], np.int32).reshape(shape)
        return Lessons(prompts, images, tokens.reshape(*shape, MAX_TOKENS), length)

    def _pair(self) -> tuple[Images, Prompt]:
        sizes = self._noise.integers(56, 224, (2, 2))
        first, second = (self._noise.integers(0, 256, (*size, 3), np.uint8) for size in sizes)
        images, grids = encode_pair(
            first, second, self._policy, self._config.vision, ("noise", "noise")
        )
        return images, self._encoder.encode(self._caption(), grids)

    def _caption(self) -> str:
        return " ".join(self._sentence() for _ in range(self._words.randint(1, 3)))

    def _sentence(self) -> str:
        parts = self._words.choice(CAPTIONS).replace("}", "{").split("{")
        return "".join(
            self._words.choice(WORDS[part].split()) if i % 2 else part
            for i, part in enumerate(parts)
        )

    def _reply(self) -> list[int]:
        """A verdict, a reason, and an answer that mostly follows the verdict."""
        verdict = self._words.choice((1, 2))
        follows = self._words.random() < FOLLOWS_VERDICT
        answer = verdict if follows else 3 - verdict
        trace = f"Image {verdict} is better, {self._words.choice(REASONS)}."
        text = f"<think>{trace}</think><answer>{answer}</answer>"
        ids = [*token_ids(self._tokenizer, text), self._stop]
        if len(ids) > MAX_TOKENS:
            raise ValueError(f"a reply of {len(ids)} tokens, more than {MAX_TOKENS}: {text}")
        return ids


def teach_form(model: Qwen2_5_VL, params: dict, teacher: Teacher, steps: int) -> dict:
    """Fits the replies of `steps` batches."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    @jax.jit
    def update(params, opt_state, lessons):
        loss, grads = jax.value_and_grad(lambda p: supervised_loss(model, p, lessons))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state = optimizer.init(params)
    with tqdm(range(steps), desc="teaching the form") as bar:
        for step in bar:
            params, opt_state, loss = update(params, opt_state, teacher.lessons())
            if step % 20 == 0:
                bar.set_postfix(loss=f"{float(loss):.3f}")
    return params


CARD = """---
license: apache-2.0
---
# lrt_jax tiny

A Qwen2.5-VL of 0.7 million parameters with a byte-level tokenizer of its own, so that every stage
of a run can be tried on any machine. It was taught for {steps} steps (seed {seed}), on noise and
made-up captions, how a reply looks: `<think>..</think><answer>1</answer>`. It has never seen a
picture that meant anything, and its answers are chance.

Made by `python -m lrt_jax.assets.make_tiny --output=FOLDER --steps={steps} --seed={seed}`.
"""


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
