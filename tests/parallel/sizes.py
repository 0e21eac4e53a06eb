"""Models of the sizes that are trained, without their weights."""

from lrt_jax import assets
from lrt_jax.models import read_config
from lrt_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig
from lrt_jax.models.qwen2_5_vl.model import Qwen2_5_VL


def model_of_sizes(name: str) -> Qwen2_5_VL:
    """The built-in `tiny` model, or Qwen2.5-VL-Instruct of `3b` or `7b`."""
    config = read_config(assets.tiny_model()) if name == "tiny" else SIZES[name]
    return Qwen2_5_VL(config)


def _published(*, vocab_size: int, heads: int, tied: bool, **text: int) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(
            depth=32,
            hidden_size=1280,
            intermediate_size=3420,
            num_heads=16,
            out_hidden_size=text["hidden_size"],
            full_attention_layers=(7, 15, 23, 31),
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            num_heads=heads,
            mrope_section=(16, 24, 24),
            rope_theta=1e6,
            rms_norm_eps=1e-6,
            tie_word_embeddings=tied,
            **text,
        ),
        image_token_id=151655,
        video_token_id=151656,
    )


SIZES = {
    "3b": _published(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=11_008,
        num_layers=36,
        heads=16,
        num_kv_heads=2,
        tied=True,
    ),
    "7b": _published(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_layers=28,
        heads=28,
        num_kv_heads=4,
        tied=False,
    ),
}
