"""Reinforcement learning as pure functions: rewards, advantages, losses, rollouts."""
