"""Qwen2.5-VL (arXiv 2502.13923)."""

from lrt_jax.models.api import Family
from lrt_jax.models.qwen2_5_vl.config import read_config
from lrt_jax.models.qwen2_5_vl.flops import FlopCounter
from lrt_jax.models.qwen2_5_vl.hf_inputs import apply_hf
from lrt_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from lrt_jax.models.qwen2_5_vl.published import PUBLISHED
from lrt_jax.models.qwen2_5_vl.sharding import RULES
from lrt_jax.models.qwen2_5_vl.weights import weight_table

FAMILY = Family(
    read_config=read_config,
    model=Qwen2_5_VL,
    weight_table=weight_table,
    rules=RULES,
    apply_hf=apply_hf,
    quantised="decoder/layers/.*/kernel",
    flops=FlopCounter,
    published=PUBLISHED,
)
