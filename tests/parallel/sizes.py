"""Models of the sizes that are trained, without their weights."""

from lrt_jax import assets
from lrt_jax.models import read_config
from lrt_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from lrt_jax.models.qwen2_5_vl.published import PUBLISHED


def model_of_sizes(name: str) -> Qwen2_5_VL:
    """The built-in `tiny` model, or Qwen2.5-VL-Instruct of `3b` or `7b`."""
    if name == "tiny":
        return Qwen2_5_VL(read_config(assets.tiny_model()))
    return Qwen2_5_VL(PUBLISHED[f"Qwen/Qwen2.5-VL-{name.upper()}-Instruct"].config)
