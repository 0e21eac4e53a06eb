"""The schema of a config: fields, defaults, types, and what must hold between fields.

A config file returns `default_config()` with changes; `parse_config` turns the result, with the
overrides of the command line, into frozen dataclasses, and tells all problems at once before
anything large is imported or any device is touched.
"""

from lrt_jax.config.reading import ConfigError, parse_config
from lrt_jax.config.schema import (
    Config,
    ListenerSpec,
    LossConfig,
    OptimizerOptions,
    PromptOptions,
    default_config,
    steps_of,
)

__all__ = [
    "Config",
    "ConfigError",
    "ListenerSpec",
    "LossConfig",
    "OptimizerOptions",
    "PromptOptions",
    "default_config",
    "parse_config",
    "steps_of",
]
