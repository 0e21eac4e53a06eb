"""A server of a stub model that takes its time, as the command runs it.

python -m tests.serving.stub_process --seconds=2
"""

import time

from absl import flags

from lrt_jax import serve
from lrt_jax.cli import commands
from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.serving.limits import Limits
from lrt_jax.serving.rewards import Groups
from lrt_jax.serving.service import Service
from tests.inference.stub import StubReader, tiny_encoder


class Slow(StubReader):
    """Takes so many seconds for a batch."""

    def __init__(self, seconds: float):
        super().__init__(batch_size=2)
        self._seconds = seconds

    def read(self, requests, images=None, *, force=False):
        time.sleep(0 if force else self._seconds)
        return super().read(requests, images)


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_float("seconds", 1.0, "Of a batch.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    def open_model() -> RewardModel:
        if values.seconds < 0:
            raise ValueError("--model=nowhere: there is no such model")
        return RewardModel(Slow(values.seconds), tiny_encoder())

    serve.run_server(Service(open_model, Limits()), Groups(), serve.listen("127.0.0.1", 0))


if __name__ == "__main__":
    commands.run(main, define_flags)
