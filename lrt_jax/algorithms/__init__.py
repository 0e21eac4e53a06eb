"""What trains a policy: an object for each algorithm, found by the name that a config has for it.

One more algorithm is one more subclass of `Algorithm`, in a file of the project or of your own: a
config names the latter by `algorithm=package.module:Class`.
"""

import importlib
from collections.abc import Iterator

from lrt_jax.algorithms.api import Algorithm
from lrt_jax.config import Config
from lrt_jax.data.plain_text import in_markdown
from lrt_jax.reporting.model_card import Method

BUILT_IN = {
    "listener_grpo": "lrt_jax.algorithms.grpo:ListenerGRPO",
    "grpo": "lrt_jax.algorithms.grpo:GRPO",
    "sft": "lrt_jax.algorithms.sft:SFT",
}


def algorithm_of(config: Config) -> type[Algorithm]:
    """The algorithm that a config names; one of your own is imported.

    Raises:
      ValueError: there is none of that name.
    """
    name = config.algorithm
    module, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        raise ValueError(
            f"algorithm: {name!r} is not one of {', '.join(BUILT_IN)}, nor package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"algorithm: {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ValueError(f"algorithm: {name!r} is no subclass of lrt_jax.algorithms.api.Algorithm")
    return found


def name_of(config: Config) -> str:
    """What results call the algorithm of a config, whose code is not loaded for it."""
    return config.algorithm.rpartition(":")[2]


def method_of(config: Config) -> Method:
    """What a model card calls the algorithm of a config that a run has recorded.

    Of an algorithm of somebody's own it is the name alone: what data name is not imported.
    """
    if config.algorithm in BUILT_IN:
        return algorithm_of(config).method(config)
    name = in_markdown(name_of(config))
    return Method(name, name, (name.lower(),))


def algorithm_problems(config: Config) -> Iterator[str]:
    """What keeps a config from being run by the algorithm that it names; for `parse_config`."""
    try:
        found = algorithm_of(config)
    except ValueError as error:
        yield str(error)
    else:
        yield from found.check(config)
