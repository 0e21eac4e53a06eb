"""Reinforcement learning as pure functions: rewards, advantages, losses, rollouts."""

from lrt_jax.parallel.platform import leave_out_missing_tpu

leave_out_missing_tpu()
