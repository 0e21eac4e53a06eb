"""A reward in the training loop of an image generator, which here is a single number.

    python examples/reward_in_a_loop.py

The "generator" draws a scene with probability p, else a gray picture; REINFORCE, with the mean of a
group as its baseline, raises p. A diffusion model and its optimizer would stand in their place.
"""

import numpy as np

from lrt_jax import PreferenceReward, RewardModel
from lrt_jax.data.scenes.samples import scene_groups

STEPS, CAPTIONS, GROUP, RATE = 8, 2, 4, 4.0


def main() -> None:
    """Trains p, and prints it."""
    reward = PreferenceReward(RewardModel.from_pretrained("tiny"))
    rng, logit = np.random.default_rng(0), -1.0
    for step in range(STEPS):
        chance = 1 / (1 + np.exp(-logit))
        images, captions, good = [], [], rng.random(CAPTIONS * GROUP) < chance
        for caption, scenes in scene_groups(CAPTIONS, GROUP, seed=step):
            images += generate(scenes, good[len(images) :][:GROUP])
            captions += [caption] * GROUP
        rewards = reward(images, captions)
        baseline = rewards.reshape(CAPTIONS, GROUP).mean(axis=1).repeat(GROUP)
        logit += RATE * float(np.mean((rewards - baseline) * (good - chance)))
        print(f"step {step}: p {chance:.2f}, reward of good images {mean(rewards[good])}")


def generate(scenes: np.ndarray, good: np.ndarray) -> list[np.ndarray]:
    """A gray picture in the place of each scene that shall not be good."""
    return [scene if x else np.full_like(scene, 128) for scene, x in zip(scenes, good, strict=True)]


def mean(values: np.ndarray) -> str:
    return f"{values.mean():.2f}" if len(values) else "-"


if __name__ == "__main__":
    main()
