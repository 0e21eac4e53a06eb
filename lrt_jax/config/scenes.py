"""What is drawn, and how the files are called; a config holds these options."""

import dataclasses

TRUTH, TRACES, OPTIONS = "truth.jsonl", "traces.jsonl", "scenes.json"


@dataclasses.dataclass(frozen=True)
class Corruption:
    """How often a statement of a written trace is wrong, each a share from 0 to 1.

    What follows from a statement follows from it as it was said: a trace with one slip is
    consistent, so that reading it is worth while.

    Attributes:
      description: an object has one attribute wrong.
      quality: the picture's quality is another.
      mark: an object's match is another.
      leniency: an object that is nearly as asked is marked `yes`.
      flattery: a picture that is not sharp is called sharp. Above one half it is the likelier
        statement, a habit that has to be unlearnt; so is leniency.
      score: is one more or less, where there are such scores.
      answer: is the other image. Where the scores said are equal, it is a coin's toss in any case.
    """

    description: float = 0.0
    quality: float = 0.0
    mark: float = 0.0
    leniency: float = 0.0
    flattery: float = 0.0
    score: float = 0.0
    answer: float = 0.0


@dataclasses.dataclass(frozen=True)
class ScenesOptions:
    """What is drawn. Captions of training and evaluation never meet, whatever the seeds.

    Attributes:
      seed: of all that is drawn.
      train: captions of the split `train`.
      validation: captions of the split `validation`: new ones like those of training.
      test: captions of each of two splits: `test_combinations`, of colours and shapes that are new
        together, and `test_objects`, of three objects.
      images: of a caption.
      three_objects: share of training captions that ask for three objects; the rest ask for two.
      annotators: people who rate each image.
      rating_noise: standard deviation of a rating, in points of the score.
      traces: completions to imitate for each training pair and order.
      bare: share of them that have no trace: the answer that people gave, and nothing before it.
      corruption: how often a statement in them is wrong.
    """

    seed: int = 0
    train: int = 512
    validation: int = 256
    test: int = 128
    images: int = 4
    three_objects: float = 0.0
    annotators: int = 5
    rating_noise: float = 1.0
    traces: int = 0
    bare: float = 0.0
    corruption: Corruption = Corruption()
