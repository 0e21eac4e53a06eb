"""What ships with the code: two small models, their tokenizer, and how they are made."""

from pathlib import Path

TINY = "tiny"  # the reasoner, and what a model's path may be instead of a folder
TINY_LISTENER = "tiny_listener"  # a larger model of the same tokenizer, taught longer
BUILT_IN = (TINY, TINY_LISTENER)
KNOWN_SOURCE = "scenes"  # the only source of data whose pictures the built-in models know


def built_in_model(name: str) -> Path:
    """Folder of a built-in model, in the hub's layout.

    Args:
      name: one of `BUILT_IN`.
    """
    return Path(__file__).parent / name


def tiny_model() -> Path:
    """Folder of the built-in reasoner."""
    return built_in_model(TINY)
