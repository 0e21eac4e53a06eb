"""Which of some generated images would people prefer? Ranks images of one caption.

    python examples/rank_generations.py

The built-in model judges drawn scenes; name a model of your own and image files in their place.
"""

from lrt_jax import RewardModel
from lrt_jax.data.scenes.samples import scene_groups
from lrt_jax.reporting.verdicts import ranking_page


def main() -> None:
    """Ranks five drawn scenes, and shows one reasoning."""
    model = RewardModel.from_pretrained("tiny")
    [(caption, images)] = scene_groups(1, images=5)
    ranks = model.rank(caption=caption, images=images)
    print(ranking_page(ranks, caption, [f"image {i}" for i in range(len(images))]))
    first, second = sorted((ranks.order[0], ranks.order[-1]))  # the best and the worst
    print("\nimage", first, "against image", second)
    print(ranks.verdicts[first, second].traces[0][0])


if __name__ == "__main__":
    main()
