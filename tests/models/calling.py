"""Methods of a family's own module, beside those that `BoundModel` knows."""

from typing import Any

from lrt_jax.models import VisionLanguageModel


def call(model: VisionLanguageModel, params, method: str, *args) -> Any:
    """`model.apply` with the parameters' collection spelled out once."""
    return model.apply({"params": params}, *args, method=method)
