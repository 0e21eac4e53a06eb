"""What ships with the code: the built-in tiny model, its tokenizer, and how both are made."""

from pathlib import Path

TINY = "tiny"  # what a model's path may be instead of a folder
KNOWN_SOURCE = "scenes"  # the only source of data whose pictures the built-in model knows


def tiny_model() -> Path:
    """Folder of the built-in model, in the hub's layout."""
    return Path(__file__).parent / TINY
