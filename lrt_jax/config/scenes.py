"""What is drawn, and how the files are called; a config holds these options."""

import dataclasses

TRUTH, TRACES, OPTIONS = "truth.jsonl", "traces.jsonl", "scenes.json"


@dataclasses.dataclass(frozen=True)
class Corruption:
    """How often a statement of a written trace is wrong.

    What follows from a statement follows from it as it was said: a trace with one slip is
    consistent, so that reading it is worth while.

    Attributes:
      description: an object has one attribute wrong.
      quality: the picture's quality is another.
      mark: an object's match is another.
      score: is one more or less, where there are such scores.
      answer: is the other image. Where the scores said are equal, it is a coin's toss in any case.
    """

    description: float = 0.0
    quality: float = 0.0
    mark: float = 0.0
    score: float = 0.0
    answer: float = 0.0


@dataclasses.dataclass(frozen=True)
class ScenesOptions:
    """What is drawn. Captions of training and evaluation never meet, whatever the seeds."""

    seed: int = 0  # of all that is drawn
    train: int = 512  # captions of the training split
    validation: int = 256  # of the split `validation`: new captions like those of training
    test: int = 128  # of each: `test_combinations` of colour and shape, `test_objects`: three
    images: int = 4  # of a caption
    three_objects: float = 0.0  # share of training captions that ask for three, the rest for two
    annotators: int = 5  # who rate each image
    rating_noise: float = 1.0  # standard deviation of a rating, in points of the score
    traces: int = 0  # completions to imitate for each training pair and order
    corruption: Corruption = Corruption()  # how often a statement in them is wrong
