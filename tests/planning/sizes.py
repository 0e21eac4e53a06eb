"""A model of one layer, so small that its products do not hide the rest."""

from lrt_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig, VisionConfig

ONE_LAYER = ModelConfig(
    vision=VisionConfig(
        depth=1,
        hidden_size=64,
        intermediate_size=96,
        num_heads=2,
        out_hidden_size=64,
        full_attention_layers=(0,),
    ),
    text=TextConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=160,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        mrope_section=(4, 2, 2),
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    ),
    image_token_id=3,
    video_token_id=4,
)
