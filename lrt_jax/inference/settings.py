"""How a model is to be asked: as it was trained, which its folder tells."""

import dataclasses
from pathlib import Path

from lrt_jax.config import Config, ListenerSpec, PromptOptions
from lrt_jax.config.choices import ListenerStyle
from lrt_jax.data.input.patches import ImagePolicy, read_image_policy
from lrt_jax.models import SETTINGS
from lrt_jax.models.api import ImageLayout
from lrt_jax.storage.digests import check_seal
from lrt_jax.storage.disk import read_fields, read_plainly

REMEDY = "restore it, or remove it to ask the model as one that was not trained here"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What a scorer must do as training did."""

    prompts: PromptOptions  # texts of reasoner and listeners
    listener_style: ListenerStyle  # how the first listener of the training was asked
    criterion: str  # what people judged by
    prompt_tokens: int  # of the shortest bucket for prompts
    images: ImagePolicy  # how images are brought to size
    completion_length: int  # tokens of a completion at most
    temperature: float  # at which completions are sampled where there are several votes
    top_p: float  # likewise


def read_settings(folder: Path, vision: ImageLayout) -> ModelSettings:
    """Those of `lrt_jax.json`; of a model that was not trained here, a config's defaults.

    Args:
      folder: of the model, in the Hub's layout.
      vision: how its family cuts images.

    Raises:
      ValueError: the file was changed, or lacks a field; it is named.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return _defaults(folder, vision)
    with read_plainly(path, REMEDY):
        fields = read_fields(path, REMEDY)
        check_seal(fields)
        prompt, sampling = fields["prompt"], fields["sampling"]
        judge = next((x for x in fields["listeners"] if x["style"] == "judge"), {})
        return ModelSettings(
            prompts=PromptOptions(
                question=prompt["question"],
                instruction=prompt["task"],
                judge_before=judge.get("before"),
                judge_after=judge.get("after"),
            ),
            listener_style=next((x["style"] for x in fields["listeners"]), ListenerSpec.style),
            criterion=prompt["criterion"],
            prompt_tokens=prompt["tokens"],
            images=ImagePolicy(**fields["images"]),
            completion_length=sampling["max_completion_length"],
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
        )


def _defaults(folder: Path, vision: ImageLayout) -> ModelSettings:
    config = Config()
    return ModelSettings(
        prompts=config.prompts,
        listener_style=ListenerSpec.style,
        criterion="overall",
        prompt_tokens=config.data.prompt_tokens,
        images=read_image_policy(folder, vision, config.data.max_patches, config.data.one_grid),
        completion_length=config.max_completion_length,
        temperature=config.temperature,
        top_p=config.top_p,
    )
