"""A reward model whose answers follow from the images shown alone, without any weights."""

import hashlib
import types
from collections.abc import Sequence

import numpy as np

from lrt_jax import assets
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.inference.answers import ORDERS, Answers, comparisons
from lrt_jax.inference.requests import Request, RequestEncoder
from lrt_jax.inference.results import Comparison
from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.inference.settings import read_settings
from lrt_jax.models import read_config


class StubReader:
    """In the place of `Reader`.

    Attributes:
      sizes: requests of each batch so far.
    """

    def __init__(self, batch_size: int = 4):
        self.batch_size, self.images_encoded = batch_size, 0
        self.sizes: list[int] = []

    def feature_cache(self, capacity=None) -> None:
        return None

    def read(self, requests: Sequence[Request], images=None, *, force=False) -> list[Comparison]:
        assert len({x.shape for x in requests}) == 1 and len(requests) <= self.batch_size
        self.sizes.append(len(requests))
        rows = [(request, swapped) for request in requests for swapped in ORDERS]
        probability = np.array([probabilities(*row) for row in rows], np.float32)
        choice = (probability < 0.5).astype(np.int8)
        said = types.SimpleNamespace(choice=choice, traces=[[""] * choice.shape[1]] * len(rows))
        answers = Answers(None, said, probability, np.zeros(choice.shape, bool))
        return comparisons(answers, 1 - probability, len(requests))


def probabilities(request: Request, swapped: bool) -> list[float]:
    """As good as random, of the images in the order in which they are shown."""
    first, second = (x.digest for x in request.images[:: -1 if swapped else 1])
    votes = (b"%d:%d:" % (request.seed, vote) for vote in range(request.votes))
    digests = [hashlib.sha256(vote + first + b":" + second).digest() for vote in votes]
    return [int.from_bytes(digest[:4], "big") / 2**32 for digest in digests]


def tiny_encoder() -> RequestEncoder:
    """What the built-in model is asked."""
    folder = assets.tiny_model()
    config = read_config(folder)
    settings = read_settings(folder, config.vision)
    patches = settings.images.max_patches
    prompt = PromptEncoder(
        load_tokenizer(folder), config, "reason", settings.prompt_tokens, patches, settings.prompts
    )
    return RequestEncoder(settings.images, (prompt,), 4096, settings.criterion)


def stub_model(batch_size: int = 4) -> tuple[RewardModel, StubReader]:
    """The model, and who answers for it."""
    reader = StubReader(batch_size)
    return RewardModel(reader, tiny_encoder()), reader
