"""Starts that keep programs, within one process."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
from jax._src import compilation_cache, monitoring

from lrt_jax.storage.compilation_cache import SETTINGS

EVENTS = {"cache_hits": "loaded", "cache_misses": "written"}


@dataclasses.dataclass
class Kept:
    """How many programs were loaded, and how many were compiled and handed on to be written."""

    loaded: int = 0
    written: int = 0

    def count(self, event: str, **_) -> None:
        name = event.removeprefix("/jax/compilation_cache/")
        if name in EVENTS:
            setattr(self, EVENTS[name], getattr(self, EVENTS[name]) + 1)


@contextlib.contextmanager
def kept_programs(monkeypatch) -> Iterator[Kept]:
    """JAX as it is where nobody has told it about a cache; as before afterwards."""
    names = (*SETTINGS, "jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    function, kept = compilation_cache.get_file_cache, Kept()
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    for name in SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    compilation_cache.reset_cache()
    monitoring.register_event_listener(kept.count)
    try:
        yield kept
    finally:
        monitoring.unregister_event_listener(kept.count)
        compilation_cache.get_file_cache = function
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
