"""What calls and answers hold. Fields that a call may not have are an error, as are wrong types."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

Caption = Annotated[str, Field(description="What the images are to show.")]
ImageFile = Annotated[str, Field(description="An image file in base64, or a `data:` URL of one.")]
Votes = Annotated[
    int | None, Field(ge=1, description="Completions for each order; 1 is greedy. See /health.")
]
# JSON Schema has no type for NaN, which validators take for a number, for null or for neither.
RewardValue = Annotated[float, WithJsonSchema({"description": "A number from 0 to 1, or NaN."})]
REWARD = "preference"  # name of the one reward that there is, and of its one metric


class Call(BaseModel):
    """What is sent."""

    model_config = ConfigDict(extra="forbid", strict=True)


class CompareCall(Call):
    """Two images to compare."""

    caption: Caption
    first: ImageFile
    second: ImageFile
    votes: Votes = None


class RankCall(Call):
    """Images of one caption to rank."""

    caption: Caption
    images: Annotated[list[ImageFile], Field(min_length=2)]
    anchors: Annotated[
        int | None, Field(ge=1, description="How many images all others meet; all if not given.")
    ] = None
    votes: Votes = None


class Turn(Call):
    """UniRL's: a prompt and what was made of it."""

    text: Caption
    image_b64: ImageFile | None = None
    video_b64: None = None
    video_path: None = None


class ScoreRequest(Call):
    """UniRL's: an image that is to be rewarded."""

    history: Annotated[list[Turn], Field(min_length=1, max_length=1)]
    required_rewards: list[str]
    metadata: dict[str, Any] | None = None


class ScoreCall(Call):
    """UniRL's: requests with equal text are a group, whose images are compared."""

    requests: list[ScoreRequest]


class ComputeCall(Call):
    """Flow-Factory's: a prompt for each image; equal prompts are a group."""

    prompt: list[Caption]
    image: list[ImageFile]
    video: None = None
    condition_images: None = None
    condition_videos: None = None
    kwargs: None = None
    extra: None = None


class RankAnswer(BaseModel):
    """As of `Ranking`."""

    scores: list[float]
    order: list[int]
    probabilities: list[list[float | None]]
    comparisons: int
    cycles: list[list[int]]


class Rewards(BaseModel):
    """Of which some may be NaN, which Python's JSON has."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


class ScoreAnswer(Rewards):
    """UniRL's: of each request, NaN where it failed, and why."""

    results: list[dict[str, dict[str, RewardValue]]]
    errors: list[dict[str, str]]


class ComputeAnswer(Rewards):
    """Flow-Factory's: of each image, NaN where there is none, and why."""

    rewards: list[RewardValue]
    reasons: list[str | None]


class Health(BaseModel):
    """Whether calls are answered, and with how many votes."""

    status: str
    rewards: list[str]
    votes: list[int]


class Problem(BaseModel):
    """Of a call that is not answered."""

    detail: str
