"""Listener-rewarded reasoning reward models for images, in JAX (arXiv 2506.22832).

    from lrt_jax import PreferenceReward, RewardModel, load_model, save_pretrained

Importing the package does nothing else: what is named is loaded when it is first asked for. What
the package logs is shown once a program sets up `logging`, as the commands do.
"""

import importlib
import logging
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "PreferenceReward",
    "RewardModel",
    "__version__",
    "apply_hf",
    "load_model",
    "save_pretrained",
]

_MODULES = dict.fromkeys(("apply_hf", "load_model", "save_pretrained"), "lrt_jax.models")
_MODULES["PreferenceReward"] = "lrt_jax.inference.preference_reward"
_MODULES["RewardModel"] = "lrt_jax.inference.reward_model"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # else Python shows warnings


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
