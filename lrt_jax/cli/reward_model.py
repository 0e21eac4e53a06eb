"""Flags by which commands name a model, and how they open it as a reward model."""

from typing import TYPE_CHECKING, get_args

from absl import flags

from lrt_jax.cli.commands import define_text
from lrt_jax.config.choices import Dtype, ListenerStyle

if TYPE_CHECKING:
    from lrt_jax import RewardModel

flags.disclaim_key_flags()  # what is defined here is listed in the --help of the command


def define_model(values: flags.FlagValues) -> None:
    """The flag that names a trained model."""
    define_text(
        values, "model", "HF folder, workdir of a run, Hub id, or `tiny` for the built-in model."
    )


def define_reward_model(values: flags.FlagValues, max_prompt_tokens: int | None = None) -> None:
    """The flags that `open_reward_model` reads, the last with a default of the command's own."""
    define_model(values)
    flags.DEFINE_string(
        "listener",
        None,
        "A second model, as --model, that reads the reasoning alone and says what it would choose.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "listener_style",
        None,
        list(get_args(ListenerStyle)),
        "Whether it judges the reasoning as another's, or continues it as its own; unset: as the "
        "model's `lrt_jax.json` says.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "dtype", "float32", list(get_args(Dtype)), "Of weights and activations.", flag_values=values
    )
    flags.DEFINE_integer(
        "batch_size", 16, "Comparisons made together.", lower_bound=1, flag_values=values
    )
    four_times = "; unset: four times as many" * (max_prompt_tokens is None)
    flags.DEFINE_integer(
        "max_prompt_tokens",
        max_prompt_tokens,
        "Of the longest prompt that is read, images included, but at least as many as in the "
        f"model's training{four_times}. Longer ones than those of the training are compiled when "
        "they first come, and take memory.",
        lower_bound=0,
        flag_values=values,
    )


def open_reward_model(values: flags.FlagValues) -> "RewardModel":
    """The model that flags name; see `RewardModel.from_pretrained` for what may be raised."""
    from lrt_jax import RewardModel
    from lrt_jax.config import ListenerSpec

    listener = values.listener
    if values.listener_style is not None:
        if listener is None:
            raise ValueError(f"--listener_style={values.listener_style}: name a --listener too")
        listener = ListenerSpec(listener, style=values.listener_style)
    return RewardModel.from_pretrained(
        values.model,
        listener=listener,
        dtype=values.dtype,
        batch_size=values.batch_size,
        max_prompt_tokens=values.max_prompt_tokens,
    )
