"""Sizes of the published Qwen2.5-VL checkpoints, as their config.json have them.

With these a run can be planned where neither checkpoint nor network is.
"""

from lrt_jax.models.api import PublishedModel
from lrt_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig

SPELLED = 151_665  # tokens of the tokenizer, which all share; further rows fill up the tables


def _published(*, vocab_size: int, heads: int, tied: bool, **text: int) -> PublishedModel:
    config = ModelConfig(
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
        unspelled_token_ids=tuple(range(SPELLED, vocab_size)),
    )
    return PublishedModel(config, answer_ids=(16, 17), stop_ids=(151645, 151643), judge_tail=9)


PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _published(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=11_008,
        num_layers=36,
        heads=16,
        num_kv_heads=2,
        tied=True,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _published(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_layers=28,
        heads=28,
        num_kv_heads=4,
        tied=False,
    ),
}
