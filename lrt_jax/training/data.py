"""The data of a run: drawn or read, prepared, and encoded for its models."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from lrt_jax.config import Config
from lrt_jax.data.build import prepare
from lrt_jax.data.conversation import PromptEncoder, Style
from lrt_jax.data.images import ImagePolicy, encoded_size, read_image_policy
from lrt_jax.data.lessons import LessonBook, LessonEncoder, bare_answers
from lrt_jax.data.pipeline import PairEncoder
from lrt_jax.data.scenes.options import TRACES
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.tables import REPORT, PreparedSet
from lrt_jax.models import ModelConfig
from lrt_jax.rl.listener import FrozenModel

ANSWERS = "answers"  # of `data.lessons`
BUCKET_STEP = 16  # tokens; what a measured bucket is rounded up to


def open_data(config: Config, workdir: Path, say: Callable[[str], None]) -> PreparedSet:
    """A prepared set as it is; a raw folder is prepared into `WORKDIR/data`, once.

    Scenes without a folder are drawn into `WORKDIR/scenes` first.

    Raises:
      ValueError: the prepared set was made of another source than the config names.
    """
    path = Path(config.data.path).expanduser()
    if config.data.source == "scenes" and not config.data.path:
        path = write_scenes(workdir / "scenes", config.data.scenes, say)
    if (path / REPORT).is_file():
        prepared = PreparedSet(path)
        if prepared.report["source"] != config.data.source:
            raise ValueError(
                f"{path}: prepared from {prepared.report['source']!r}, but data.source is "
                f"{config.data.source!r}; set --config.data.source={prepared.report['source']}"
            )
    else:
        prepare(
            config.data.source,
            path,
            workdir / "data",
            split_fractions=dict(config.data.split_fractions) or None,
            on_bad_example=config.data.on_bad_example,
            say=say,
        )
        prepared = PreparedSet(workdir / "data")
    report = prepared.report
    splits = ", ".join(f"{name} {split['pairs']:,}" for name, split in report["splits"].items())
    say(
        f"data: {report['groups']:,} captions, {report['images']:,} images, "
        f"{report['pairs']:,} pairs ({splits}); {report['ties']:,} ties, "
        f"{report['dropped']:,} images dropped"
    )
    return prepared


def pair_encoder(
    config: Config,
    folder: Path,
    prepared: PreparedSet,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelConfig,
    judges: Sequence[FrozenModel],
) -> PairEncoder:
    """What turns stored pairs into what the policy and the judges read.

    Args:
      config: of the run.
      folder: of the policy, for its image sizes.
      prepared: the data, measured where the config leaves a number of tokens open.
      tokenizer: of the policy.
      model: sizes of the policy.
      judges: the listeners with an instruction of their own.
    """
    policy = read_image_policy(folder, config.data.max_patches)
    captions, largest = _measured(config, prepared, policy, model)

    def encoder(tokenizer, model: ModelConfig, style: Style, bucket: int) -> PromptEncoder:
        if not bucket:
            measure = PromptEncoder(tokenizer, model, style, 1, config.data.max_patches)
            longest = max(measure.length(caption, largest) for caption in captions)
            bucket = -(-longest // BUCKET_STEP) * BUCKET_STEP
        return PromptEncoder(tokenizer, model, style, bucket, config.data.max_patches)

    return PairEncoder(
        policy=policy,
        vision=model.vision,
        prompt=encoder(tokenizer, model, "reason", config.data.prompt_tokens),
        listener_prompts=tuple(
            encoder(judge.tokenizer, judge.model.config, "judge", config.data.judge_tokens)
            for judge in judges
        ),
    )


def _measured(config: Config, prepared: PreparedSet, policy: ImagePolicy, model: ModelConfig):
    """Captions of the splits that are used, and twice the largest grid of any image.

    Nothing is read where the config gives every number of tokens.
    """
    if config.data.prompt_tokens and config.data.judge_tokens:
        return (), ()
    used = {config.data.train_split, config.eval.split}
    rows = itertools.chain.from_iterable(map(prepared.rows, sorted(used)))
    captions = {prepared.pair(row).prompt for row in rows}
    sizes = {(x.height, x.width) for x in map(prepared.image, range(prepared.num_images))}
    grids = [encoded_size(height, width, policy, model.vision) for height, width in sizes]
    largest = max(grids, key=lambda grid: grid[0] * grid[1])
    return sorted(captions), (largest, largest)


def lesson_encoder(
    config: Config, prepared: PreparedSet, tokenizer: PreTrainedTokenizerBase, stop_id: int
) -> LessonEncoder:
    """What adds completions to imitate to training pairs.

    Raises:
      FileNotFoundError: the file that the config names, or that should lie beside the data, is not
        there.
    """
    lessons = config.data.lessons
    if lessons != ANSWERS:
        path = Path(lessons).expanduser() if lessons else prepared.beside(TRACES)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; data.lessons names what to imitate")
    find = bare_answers if lessons == ANSWERS else LessonBook(str(path))
    return LessonEncoder(tokenizer, stop_id, config.group_size, config.max_completion_length, find)
