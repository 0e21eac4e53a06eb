"""The data of a run: drawn or read, prepared, and encoded for its models."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from etils import epath
from transformers import PreTrainedTokenizerBase

from lrt_jax.config import Config
from lrt_jax.config.choices import Style
from lrt_jax.config.schema import DataSetOptions
from lrt_jax.data.dataset.mixture import DataSet, MixedSet, folders_of, parts_of
from lrt_jax.data.dataset.prepared_set import REPORT, PreparedSet
from lrt_jax.data.dataset.selection import Rows, evaluated_rows, image_pairs, training_rows
from lrt_jax.data.dataset.trained_on import TrainedOn
from lrt_jax.data.images import TIERS
from lrt_jax.data.input.pairs import PairEncoder
from lrt_jax.data.input.patches import ImagePolicy, is_letterboxed, pair_grids, read_image_policy
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.preparation.decontamination import is_test, open_test_sets
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.preparation.report import BuildReport
from lrt_jax.data.preparation.report_page import left_out
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.schema import UNLABELLED
from lrt_jax.data.sources import SOURCES
from lrt_jax.data.sources.fetch import HUB_ID
from lrt_jax.models import ModelConfig
from lrt_jax.models.api import ImageLayout
from lrt_jax.models.inputs import Grid
from lrt_jax.parallel import processes
from lrt_jax.parallel.progress import progress_bar
from lrt_jax.reporting.results import FEW_PAIRS
from lrt_jax.rl.frozen import FrozenModel
from lrt_jax.storage.bucket import is_address
from lrt_jax.storage.disk import expanded

logger = logging.getLogger(__name__)

# Of a build report: what did not become a pair of the set, said where there is any.
LEFT_OUT = ("dropped_pairs", "self_pairs", "bad_records")
Barrier = Callable[..., None]  # as `processes.barrier`
BUCKET_STEP = 16  # tokens; what a measured bucket is rounded up to
MEASURED_TOKENS = 8192  # of a measured bucket at most: memory grows with its square


def check_data_path(config: Config) -> None:
    """Raises FileNotFoundError where the config names data that are not there.

    Of several processes the first prepares raw data; prepared ones are looked for by all.
    """
    if not processes.is_first():
        return
    for i, options in enumerate(config.data_sets):
        if options.path is None or is_address(options.path) or HUB_ID.fullmatch(options.path):
            continue
        path = Path(expanded(options.path))
        if not path.is_dir():
            field = f"data.others[{i - 1}].path" if i else "data.path"
            what = "is a file" if path.exists() else "no such folder"
            problem = f"{field}: {options.path}: {what}"
            raise FileNotFoundError(f"{problem}; name the folder of the data set")


def open_data(config: Config, workdir: Path, barrier: Barrier = processes.barrier) -> DataSet:
    """Prepared sets as they are, here or in a bucket; raw data are prepared into the workdir, once.

    The first goes to `WORKDIR/data`, the others to `WORKDIR/data-<number>-<source>`. Scenes without
    a folder are drawn into `WORKDIR/scenes` first.

    Args:
      config: of the run.
      workdir: of the run.
      barrier: where all processes come to see what the first has prepared.

    Raises:
      ValueError: a prepared set was made of another source than the config names.
    """
    data_sets = config.data_sets
    sets = [
        _open_set(
            config, options, workdir / (f"data-{i}-{options.source}" if i else "data"), barrier
        )
        for i, options in enumerate(data_sets)
    ]
    if len(sets) == 1:
        return sets[0]
    mixed = MixedSet(tuple(sets), tuple(options.share for options in data_sets))
    total = sum(mixed.shares)
    listed = ", ".join(f"{options.source} {options.share / total:.0%}" for options in data_sets)
    logger.info(f"mixture: {listed} of the pairs that are trained on")
    return mixed


def _open_set(
    config: Config, options: DataSetOptions, output: Path, barrier: Barrier
) -> PreparedSet:
    path = None if options.path is None else epath.Path(expanded(options.path))
    is_prepared = path is not None and (path / REPORT).is_file()
    found = "prepared" if is_prepared else "none yet"
    processes.assert_equal(f"{options.source} data in {options.path!r}", found)
    if not is_prepared:
        if processes.is_first():
            _prepare_set(config, options, output)
        barrier("the data are prepared", processes.WORK_TIMEOUT)
    prepared = PreparedSet(path if is_prepared else output, announce=True)
    if is_prepared:
        _check_as_named(config, options, prepared)
    _log_data(prepared)
    return prepared


def _prepare_set(config: Config, options: DataSetOptions, output: Path) -> None:
    path = options.path
    if path is None:
        path = write_scenes(output.parent / "scenes", config.data.scenes)
    elif Path(expanded(path)).is_dir():
        path = Path(expanded(path))
    prepare(
        options.source,
        path,
        output,
        split_fractions=dict(config.data.split_fractions) or None,
        on_bad_example=config.data.on_bad_example,
        near_duplicates=config.data.near_duplicates,
        criterion=config.data.criterion or "",
        test_sets=config.data.test_sets,
    )


def _check_as_named(config: Config, options: DataSetOptions, prepared: PreparedSet) -> None:
    source, settings = prepared.report["source"], prepared.report["settings"]
    if source != options.source:
        flag = f"set --config.data.source={source}"
        remedy = flag if options is config.data else f"name that in data.others: {source!r}"
        if source not in SOURCES:
            remedy = "name the source of your own that it was prepared from"
        raise ValueError(
            f"{prepared.folder}: prepared from {source!r}, but data.source is {options.source!r}; "
            f"{remedy}"
        )
    data = config.data
    wanted = {
        "split_fractions": dict(data.split_fractions),
        "criterion": data.criterion,
        "near_duplicates": data.near_duplicates if data.near_duplicates != "merge" else "",
        "test_sets": {x.name: x.digest for x in open_test_sets(data.test_sets)},
    }
    for name, value in wanted.items():
        if value and value != settings.get(name):
            raise ValueError(
                f"{prepared.folder}: prepared with data.{name}={settings.get(name)}, not {value}; "
                "leave the field out, or prepare the raw data anew"
            )


def _log_data(prepared: PreparedSet) -> None:
    report = prepared.report
    counted = left_out(BuildReport.from_json(report, prepared.beside(REPORT)), LEFT_OUT)
    splits = ", ".join(f"{name} {split['pairs']:,}" for name, split in report["splits"].items())
    logger.info(
        f"data: {report['groups']:,} captions, {report['images']:,} images, "
        f"{report['pairs']:,} pairs ({splits}); {report['ties']:,} ties, "
        f"{report['dropped']:,} images dropped"
        + "".join(f", {count} {what}" for what, count in counted.items() if count)
    )
    for note in report["notes"]:
        logger.info(f"note: {note}")


def image_policy(
    config: Config, folder: Path, prepared: DataSet, vision: ImageLayout, splits: Sequence[str]
) -> ImagePolicy:
    """How images are brought to size, with the patches per image that the config leaves open.

    Args:
      config: of the run.
      folder: of the policy, for its image sizes.
      prepared: the data.
      vision: how the models cut images.
      splits: that will be read.
    """
    data = config.data
    rows = rows_of_splits(prepared, splits)
    policy = read_image_policy(folder, vision, data.max_patches or TIERS[-1], data.one_grid)
    if data.max_patches is None:
        height, width = largest_grid(vision, prepared, policy, rows)
        tier = next(tier for tier in TIERS if tier >= height * width)
        policy = read_image_policy(folder, vision, tier, data.one_grid)
        logger.info(f"images: up to {height}x{width} patches, so data.max_patches is {tier}")
    if data.one_grid and (count := letterboxed_pairs(prepared, rows, policy, vision)):
        logger.info(
            f"images: in {count:,} of {len(rows):,} pairs the aspects are so far apart that within "
            "one grid for both an image has bars beside it (data.one_grid=False gives each its own)"
        )
    return policy


def letterboxed_pairs(
    prepared: DataSet, rows: Rows, policy: ImagePolicy, vision: ImageLayout
) -> int:
    """Pairs of which an image has bars beside it."""
    sizes = prepared.image_sizes[prepared.pair_images[rows]].astype(np.int64).reshape(-1, 4)
    different, counts = np.unique(sizes, axis=0, return_counts=True)

    def has_bars(pair: Sequence[int]) -> bool:
        both = pair[:2], pair[2:]
        shown = zip(both, pair_grids(*both, policy, vision), strict=True)
        return any(is_letterboxed(*size, grid, policy, vision) for size, grid in shown)

    return int(counts[[has_bars(pair) for pair in different.tolist()]].sum())


def rows_of_splits(prepared: DataSet, splits: Sequence[str]) -> Rows:
    """Rows of some splits together."""
    rows = [np.asarray(prepared.rows(split), np.int64) for split in splits]
    return np.unique(np.concatenate(rows))


def pair_encoder(
    config: Config,
    policy: ImagePolicy,
    prepared: DataSet,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelConfig,
    judges: Sequence[FrozenModel],
    splits: Sequence[str],
) -> PairEncoder:
    """What turns stored pairs into what the policy and the judges read.

    Args:
      config: of the run.
      policy: of the images.
      prepared: the data.
      tokenizer: of the policy.
      model: sizes of the policy.
      judges: the listeners with an instruction of their own.
      splits: to measure, where the config leaves a number of tokens open.
    """

    def encoder(tokenizer, model: ModelConfig, style: Style, bucket: int | None) -> PromptEncoder:
        if bucket is None:
            measure = PromptEncoder(tokenizer, model, style, 1, policy.max_patches, config.prompts)
            bucket = measured_bucket(measure, prepared, policy, splits)
        return PromptEncoder(tokenizer, model, style, bucket, policy.max_patches, config.prompts)

    own = encoder(tokenizer, model, "reason", config.data.prompt_tokens)
    tokens = config.data.judge_tokens
    judged = [encoder(x.tokenizer, x.model.config, "judge", tokens) for x in judges]
    return PairEncoder(policy, model.vision, prompt=own, listener_prompts=tuple(judged))


def long_captions(
    config: Config, encoder: PairEncoder, prepared: DataSet, splits: Sequence[str]
) -> Rows:
    """Rows of the pairs whose captions do not fit into a bucket that the config gives.

    A measured bucket holds every caption.

    Raises:
      ValueError: there are some, and the config does not say to skip them.
    """
    given = [encoder.prompt] if config.data.prompt_tokens is not None else []
    given += encoder.listener_prompts if config.data.judge_tokens is not None else []
    too_long: set[str] = set()
    for prompt in given:
        found = overflowing(prompt, prepared, encoder.policy, splits)
        if found and config.data.on_long_caption == "error":
            raise ValueError(_too_long(prompt, prepared, found))
        too_long |= found.keys()
    if not too_long:
        return np.empty(0, np.int64)
    left_out = []
    for split in dict.fromkeys(splits):
        rows = np.asarray(prepared.rows(split), np.int64)
        bar = progress_bar("reading", None, "pairs", things=rows.tolist(), delay=3)
        left_out.append([row for row in bar if prepared.pair(row).prompt in too_long])
        logger.info(
            f"captions: {len(left_out[-1]):,} of {len(rows):,} pairs of split {split!r} left out, "
            "whose captions do not fit into data.prompt_tokens or data.judge_tokens"
        )
    return np.unique(np.concatenate(left_out)).astype(np.int64)


def log_without_votes(prepared: DataSet, splits: Sequence[str]) -> None:
    """Logs how many pairs of some splits nobody voted on; they teach and show nothing."""
    for split in dict.fromkeys(splits):
        rows = np.asarray(prepared.rows(split), np.int64)
        if without := int((prepared.labels[rows] == UNLABELLED).sum()):
            logger.info(
                f"votes: {without:,} of {len(rows):,} pairs of split {split!r} left out, which "
                "nobody voted on"
            )


def refuse_trained_pairs(config: Config, prepared: DataSet, leave_out: Sequence[int]) -> None:
    """Keeps a run from evaluating pairs that it trains on: caption and images, in whichever set.

    Evaluated pairs that show an image which is trained on under another caption are counted in the
    log.

    Args:
      config: of the run.
      prepared: the data.
      leave_out: rows that are neither trained on nor evaluated.

    Raises:
      ValueError: there are such pairs.
    """
    trained = training_rows(prepared, config.data.train_split, config.drops_ties, leave_out)
    known = TrainedOn.of(prepared, trained)
    for split in config.evaluated_splits:
        _refuse_trained_pairs(config, prepared, leave_out, split, trained, known)


def _refuse_trained_pairs(
    config: Config,
    prepared: DataSet,
    leave_out: Sequence[int],
    split: str,
    trained: Rows,
    known: TrainedOn,
) -> None:
    """As `refuse_trained_pairs`, of one split.

    Args:
      config: of the run.
      prepared: the data.
      leave_out: rows that are neither trained on nor evaluated.
      split: that is evaluated.
      trained: rows that are trained on.
      known: what these show.
    """
    rows = evaluated_rows(prepared, split, leave_out)
    again, images = known.seen(prepared, rows)
    if again.any():
        source = trained[np.isin(prepared.pair_keys[trained], prepared.pair_keys[rows[again]])]
        raise ValueError(
            f"{folders_of(prepared, rows[again])}: {again.sum():,} of {len(rows):,} pairs of split "
            f"{split!r} are trained on, as pairs of split {config.data.train_split!r} of "
            f"{folders_of(prepared, source)}, so that figures would tell what was learnt by heart; "
            + _apart_instead(config, prepared, leave_out, known, split)
        )
    if images.any():
        shown = image_pairs(prepared)
        both = np.isin(shown[rows], shown[trained])
        logger.info(
            f"note: {images.sum():,} of {len(rows):,} pairs of split {split!r} show an image that "
            f"is trained on under another caption, and {both.sum():,} of them both images of such "
            "a pair"
        )


def _apart_instead(
    config: Config, prepared: DataSet, leave_out: Sequence[int], known: TrainedOn, split: str
) -> str:
    """What to do where pairs of a split would be trained on and evaluated."""
    others = []
    for name in prepared.splits if split == config.eval.split else ():
        rows = evaluated_rows(prepared, name, leave_out)
        if len(rows) and not known.seen(prepared, rows)[0].any():
            others.append(f"--config.eval.split={name}")
    ways = [
        "cut all sets with the same data.split_fractions, and where lrt_jax.prepare cuts them with "
        "the same --seed"
    ]
    ways += ["keep them out of training with data.test_sets"] if is_test(split) else []
    ways += [f"take {' or '.join(others)}"] if others else []
    ways += ["take it out of eval.others"] if split != config.eval.split else []
    return ", or ".join(ways)


def warn_of_few(config: Config, prepared: DataSet, leave_out: Rows) -> None:
    """Warns where an evaluation has fewer than `FEW_PAIRS` pairs, and says how it gets more."""
    limit = config.eval.pairs
    for split in config.evaluated_splits:
        there = len(evaluated_rows(prepared, split, leave_out))
        count = min(there, limit or there)
        if 0 < count < FEW_PAIRS:
            more = "raise eval.pairs (--pairs of lrt_jax.evaluate)"
            other = "give it more of the data (data.split_fractions), or evaluate another split"
            logger.warning(
                f"only {count} pairs of split {split!r} are evaluated, so that one answer "
                f"moves accuracy by {50 / count:.0f} points; "
                f"{other if there < FEW_PAIRS else more}"
            )


def overflowing(
    encoder: PromptEncoder, prepared: DataSet, policy: ImagePolicy, splits: Sequence[str]
) -> dict[str, int]:
    """Captions that do not fit into the bucket with two of the largest images, and their tokens.

    A caption has no more tokens than bytes, so that few are tokenised.
    """
    length = _prompt_length(encoder, prepared, policy)
    room = encoder.bucket - length("")
    texts = prepared.captions(rows_of_splits(prepared, splits))
    lengths = {text: length(text) for text in texts if len(text.encode()) > room}
    return {text: length for text, length in lengths.items() if length > encoder.bucket}


def _field_of(encoder: PromptEncoder) -> str:
    """The field of a config that has the tokens of its prompts."""
    return "data.judge_tokens" if encoder.style == "judge" else "data.prompt_tokens"


def _too_long(encoder: PromptEncoder, prepared: DataSet, lengths: Mapping[str, int]) -> str:
    bucket = f"{_field_of(encoder)}={encoder.bucket}"
    return (
        f"{prepared.folder}: {len(lengths)} captions do not fit into {bucket} with "
        f"two of the largest images, such as {next(iter(lengths))[:60]!r}; the longest takes "
        f"{max(lengths.values())}, and None measures the data; data.on_long_caption=skip leaves "
        "their pairs out"
    )


def largest_grid(
    vision: ImageLayout, prepared: DataSet, policy: ImagePolicy, rows: Rows | slice = slice(None)
) -> Grid:
    """Height and width in patches of the image of some pairs that takes most tokens."""
    sizes = prepared.image_sizes[prepared.pair_images[rows]].astype(np.int64)  # [n, 2, 2]
    if policy.one_grid:  # which follows from the products of heights and of widths
        products = np.unique(sizes.prod(axis=1), axis=0).tolist()
        pairs = [((h, w), (1, 1)) for h, w in products]
    else:
        pairs = [(size, size) for size in np.unique(sizes.reshape(-1, 2), axis=0).tolist()]
    return max((pair_grids(*pair, policy, vision)[0] for pair in pairs), key=math.prod)


def _prompt_length(
    encoder: PromptEncoder, prepared: DataSet, policy: ImagePolicy
) -> Callable[[str], int]:
    """Tells how many tokens a caption's prompt can have, images and criteria of the data given."""
    largest, criteria = largest_grid(encoder.config.vision, prepared, policy), criteria_of(prepared)
    return lambda text: max(encoder.length(text, (largest, largest), by) for by in criteria)


def criteria_of(prepared: DataSet) -> list[str]:
    """What people judged by in the data, most pairs first."""
    counts = sum((Counter(x.report["criteria"]) for x in parts_of(prepared)), Counter())
    return [criterion for criterion, _ in counts.most_common()]


def measured_bucket(
    measure: PromptEncoder, prepared: DataSet, policy: ImagePolicy, splits: Sequence[str]
) -> int:
    """Tokens that hold any caption of some splits with the largest two images of a pair.

    Raises:
      ValueError: they are more than `MEASURED_TOKENS`.
    """
    texts = prepared.captions(rows_of_splits(prepared, splits))
    length = _prompt_length(measure, prepared, policy)
    longest, caption = max(((length(text), text) for text in texts), key=lambda item: item[0])
    if longest > MEASURED_TOKENS:
        field = _field_of(measure)
        raise ValueError(
            f"{prepared.folder}: a caption takes {longest:,} tokens with two of the largest "
            f"images, of which {field}=None measures at most {MEASURED_TOKENS:,}: "
            f"{caption[:60]!r}; give {field}, and data.on_long_caption=skip to leave such pairs out"
        )
    return -(-longest // BUCKET_STEP) * BUCKET_STEP
