"""Programs that an earlier start compiled, and the next loads, train in the same bits."""

import jax
import pytest

from lrt_jax.algorithms.grpo import GRPO
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.storage.compilation_cache import keep_programs
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import setup
from lrt_jax.training.loop import train
from tests.kept_programs import Kept, kept_programs
from tests.training.small_run import exported_bytes, tiny_config


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))
    with kept_programs(monkeypatch) as kept:
        yield kept


def start(kept: Kept, place: object) -> None:
    """A new process, as far as JAX's programs go."""
    jax.clear_caches()
    kept.loaded = kept.written = 0
    keep_programs(str(place))


def test_a_run_is_the_same_with_a_cold_a_warm_and_no_cache(data, kept, tmp_path, monkeypatch):
    config = tiny_config(data)
    start(kept, "off")
    train(config, LocalWorkdir(tmp_path / "without"))
    assert (kept.loaded, kept.written) == (0, 0)

    jax.config.update("jax_enable_compilation_cache", True)
    start(kept, tmp_path / "compiled")
    take_step, resumed = GRPO.step, []

    def step(self, state, batch, number, monitor):
        if number == 3 and not resumed:
            resumed.append((kept.loaded, kept.written))
            start(kept, tmp_path / "compiled")  # of the process that goes on
            raise KeyboardInterrupt
        return take_step(self, state, batch, number, monitor)

    monkeypatch.setattr(GRPO, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train(config, LocalWorkdir(tmp_path / "cold"))
    [(_, written)] = resumed
    train(config, LocalWorkdir(tmp_path / "cold"))
    assert kept.loaded >= written > 0  # restoring compiles some of its own

    start(kept, tmp_path / "compiled")
    train(config, LocalWorkdir(tmp_path / "warm"))
    assert kept.loaded > 0 and kept.written == 0
    wanted = exported_bytes(tmp_path / "without")
    for name in ("cold", "warm"):
        assert exported_bytes(tmp_path / name) == wanted, name
