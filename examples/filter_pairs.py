"""Keeps the pairs of a data set that a model is sure about, whichever image is shown first.

python examples/filter_pairs.py
"""

from collections.abc import Iterable, Iterator

from lrt_jax import RewardModel
from lrt_jax.data.scenes.samples import scene_groups

SURE = 0.8  # least probability of the preferred image


def sure_pairs(model: RewardModel, rows: Iterable[dict]) -> Iterator[tuple[dict, float]]:
    """Rows that both orders agree about, and the probability that the first image is preferred.

    Args:
      model: that is asked.
      rows: with `caption`, `first` and `second`.
    """
    rows = list(rows)
    for row, result in zip(rows, model.compare_many(rows), strict=True):
        likelier = max(result.probability, 1 - result.probability)
        if result.agreement == 1 and result.contradiction is not True and likelier >= SURE:
            yield row, result.probability


def main() -> None:
    """Filters pairs of drawn scenes."""
    model = RewardModel.from_pretrained("tiny")
    rows = [
        {"caption": caption, "first": first, "second": second}
        for caption, (first, second) in scene_groups(12, images=2)
    ]
    kept = list(sure_pairs(model, rows))
    for row, probability in kept:
        print(f"{probability:.3f}  {row['caption']}")
    print(f"{len(kept)} of {len(rows)} pairs kept")


if __name__ == "__main__":
    main()
