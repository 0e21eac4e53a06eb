"""Processes that tests start have no PyTorch, as those of users: transformers loads it wherever it
is, for three to five seconds that no command needs."""

import sys
from importlib.machinery import PathFinder


class WithoutTorch(PathFinder):
    """Finds what `PathFinder` does, but for torch."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """The module's spec; None for torch."""
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
