"""How long the stages of a step take, and whether anything was compiled."""

import contextlib
import time
from collections.abc import Iterator

import jax

_COMPILATION = "/jax/core/compile/backend_compile_duration"


class Monitor:
    """Collects a step's times and compilations. A context manager: it listens while it is open.

    After the first step no number of compilations but zero is right: shapes are static.
    """

    def __init__(self):
        self._stages: dict[str, float] = {}
        self._compilations = 0
        self._began = time.monotonic()

    def __enter__(self) -> "Monitor":
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        self._began = time.monotonic()
        return self

    def __exit__(self, *exc) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_event)

    def begin_step(self) -> None:
        """Starts the step's clock, so that what stands between two steps does not count."""
        self._began, self._compilations = time.monotonic(), 0

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage. What the devices still have to do at its end counts in the next."""
        began = time.monotonic()
        with jax.profiler.TraceAnnotation(name):
            yield
        self._stages[name] = self._stages.get(name, 0.0) + time.monotonic() - began

    def take(self, tokens: int) -> dict[str, float]:
        """Metrics since the last call: seconds by stage, tokens per second, compilations."""
        seconds = time.monotonic() - self._began
        taken = {f"seconds/{name}": value for name, value in self._stages.items()}
        taken |= {
            "seconds/step": seconds,
            "tokens_per_second": tokens / seconds,
            "compilations": self._compilations,
        }
        self._stages, self._compilations = {}, 0
        return taken

    def _on_event(self, event: str, duration: float, **_) -> None:
        self._compilations += event == _COMPILATION
