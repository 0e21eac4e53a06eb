"""The data of a run: drawn or read, prepared, and encoded for its models."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from lrt_jax.config import Config
from lrt_jax.data.build import prepare
from lrt_jax.data.conversation import PromptEncoder, Style
from lrt_jax.data.images import ImagePolicy, encoded_size, read_image_policy
from lrt_jax.data.lessons import LessonBook, LessonEncoder, Lookup, bare_answers
from lrt_jax.data.pipeline import PairEncoder, training_rows
from lrt_jax.data.scenes.options import TRACES
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.tables import REPORT, PreparedSet
from lrt_jax.models import ModelConfig
from lrt_jax.rl.listener import FrozenModel

ANSWERS = "answers"  # of `data.lessons`
# Of a build report: pairs that did not become pairs of the set, said where there are any.
LEFT_OUT = {
    "dropped_pairs": "pairs dropped with them",
    "self_pairs": "pairs of an image with itself left out",
}
BUCKET_STEP = 16  # tokens; what a measured bucket is rounded up to


def check_data_path(config: Config) -> None:
    """Raises FileNotFoundError where the config names data that are not there."""
    path = config.data.path
    if path and not Path(path).expanduser().is_dir():
        raise FileNotFoundError(f"data.path: {path}: no such folder; name the data set's")


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
        has, wanted = prepared.report["settings"]["split_fractions"], config.data.split_fractions
        if wanted and dict(wanted) != has:
            raise ValueError(
                f"{path}: prepared with data.split_fractions={has}, not {dict(wanted)}; leave the "
                "field out, or name the raw folder, to cut it anew"
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
    left_out = [f"{report[name]} {what}" for name, what in LEFT_OUT.items() if report[name]]
    if bad_records := report.get("bad_records"):
        left_out.append(f"{len(bad_records)} bad records left out with their groups")
    splits = ", ".join(f"{name} {split['pairs']:,}" for name, split in report["splits"].items())
    say(
        f"data: {report['groups']:,} captions, {report['images']:,} images, "
        f"{report['pairs']:,} pairs ({splits}); {report['ties']:,} ties, "
        f"{report['dropped']:,} images dropped" + "".join(f", {line}" for line in left_out)
    )
    return prepared


def pair_encoder(
    config: Config,
    folder: Path,
    prepared: PreparedSet,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelConfig,
    judges: Sequence[FrozenModel],
    splits: Sequence[str],
) -> PairEncoder:
    """What turns stored pairs into what the policy and the judges read.

    Args:
      config: of the run.
      folder: of the policy, for its image sizes.
      prepared: the data.
      tokenizer: of the policy.
      model: sizes of the policy.
      judges: the listeners with an instruction of their own.
      splits: to measure, where the config leaves a number of tokens open.
    """
    policy = read_image_policy(folder, config.data.max_patches)

    def encoder(tokenizer, model: ModelConfig, style: Style, bucket: int) -> PromptEncoder:
        if not bucket:
            measure = PromptEncoder(tokenizer, model, style, 1, config.data.max_patches)
            bucket = measured_bucket(measure, prepared, policy, splits)
            return dataclasses.replace(measure, bucket=bucket)
        whole = PromptEncoder(tokenizer, model, style, bucket, config.data.max_patches)
        check_captions(whole, prepared, policy, splits)
        return whole

    return PairEncoder(
        policy=policy,
        vision=model.vision,
        prompt=encoder(tokenizer, model, "reason", config.data.prompt_tokens),
        listener_prompts=tuple(
            encoder(judge.tokenizer, judge.model.config, "judge", config.data.judge_tokens)
            for judge in judges
        ),
    )


def check_captions(
    encoder: PromptEncoder, prepared: PreparedSet, policy: ImagePolicy, splits: Sequence[str]
) -> None:
    """Refuses captions that would not fit into the bucket, before the step that meets them.

    A caption has no more tokens than bytes, so that few are tokenised.

    Raises:
      ValueError: names one of them, and says how many there are and what would hold them.
    """
    largest = largest_grid(encoder, prepared, policy)
    rows = np.concatenate([np.asarray(prepared.rows(split), np.int64) for split in splits])
    room = encoder.bucket - encoder.length("", (largest, largest))
    texts = [text for text in prepared.captions(rows) if len(text.encode()) > room]
    lengths = {text: encoder.length(text, (largest, largest)) for text in texts}
    if too_long := {text: n for text, n in lengths.items() if n > encoder.bucket}:
        first = next(iter(too_long))
        field = "data.judge_tokens" if encoder.style == "judge" else "data.prompt_tokens"
        raise ValueError(
            f"{prepared.folder}: {len(too_long)} captions do not fit into {field}="
            f"{encoder.bucket} with two of the largest images, such as {first[:60]!r}; the longest "
            f"takes {max(too_long.values())}, and 0 measures the data"
        )


def largest_grid(
    encoder: PromptEncoder, prepared: PreparedSet, policy: ImagePolicy
) -> tuple[int, int]:
    """Height and width in patches of the image of a set that takes most tokens."""
    sizes = np.unique(prepared.image_sizes, axis=0).tolist()
    return max((encoded_size(h, w, policy, encoder.config.vision) for h, w in sizes), key=math.prod)


def measured_bucket(
    measure: PromptEncoder, prepared: PreparedSet, policy: ImagePolicy, splits: Sequence[str]
) -> int:
    """Tokens that hold any caption of some splits with any two images of the set."""
    rows = np.concatenate([np.asarray(prepared.rows(split), np.int64) for split in splits])
    largest = largest_grid(measure, prepared, policy)
    longest = max(measure.length(text, (largest, largest)) for text in prepared.captions(rows))
    return -(-longest // BUCKET_STEP) * BUCKET_STEP


def lesson_encoder(
    config: Config,
    prepared: PreparedSet,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
) -> LessonEncoder | None:
    """What adds completions to imitate to training pairs; None where nothing is imitated.

    Raises:
      FileNotFoundError: the file that the config names, or that should lie beside the data, is not
        there.
      LessonError: a training pair has none in one of its orders, or one that is too long.
    """
    if config.algorithm != "sft":
        return None
    find = _find_lessons(config, prepared)
    group, bucket = config.group_size, config.max_completion_length
    lessons = LessonEncoder(tokenizer, stop_ids[0], group, bucket, find)
    rows = training_rows(prepared, config.data.train_split, drop_ties(config))
    records = (prepared.pair(int(row)) for row in rows)
    lessons.check(tqdm(records, "reading", len(rows), leave=False, delay=3, unit="lesson"))
    return lessons


def _find_lessons(config: Config, prepared: PreparedSet) -> Lookup:
    lessons = config.data.lessons
    if lessons == ANSWERS:
        return bare_answers
    path = Path(lessons).expanduser() if lessons else prepared.beside(TRACES)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; data.lessons names what to imitate")
    return LessonBook(str(path))


def drop_ties(config: Config) -> bool:
    """Whether pairs with equal votes are no training data."""
    return config.data.target == "hard"
