"""What `benchmarks.fuzz` damages: a published image set, a checkpoint folder, a run's workdir.

Each target is made once and then copied for every case. Its `use` does with the copy what a user
would, and returns what came of it, so that it can be compared with what comes of the whole one.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from lrt_jax import assets
from lrt_jax.config import Config, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.pairs import PairEncoder, RawPair
from lrt_jax.data.input.patches import read_image_policy
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.input.tokenizer import answer_token_ids, load_tokenizer, stop_token_ids
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.schema import PairRecord, stack
from lrt_jax.models import folder_digest, load_model, save_pretrained
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training.evaluations import evaluate_params
from lrt_jax.training.export import export_checkpoint
from lrt_jax.training.loop import train
from lrt_jax.training.setup import open_run

GROUPS, IMAGES = 12, 3  # captions of the image set, and images of each
RANKED = 3  # captions that are of the published test split
PATCHES, TOKENS = 64, 224  # of an image, and of the prompt, that the checkpoint is asked about
CLOCK = ("seconds/", "tokens_per_second", "compilations", "memory")
# Two steps and then a third, on the image set.
RUN = {
    "batch_size": 4,
    "group_size": 4,
    "checkpoint_every": 1,
    "completions_every": 1,
    "data.near_duplicates": "keep",
    "data.prompt_tokens": TOKENS,
    "data.split_fractions": {"train": 0.5, "validation": 0.5},
    "data.threads": 1,
    "eval.batch_size": 4,
    "eval.pairs": 2,
    "eval.others": (),
    "eval.held_out_listener": None,
    "optimizer.schedule": "constant",  # so that the run may be made longer
    "optimizer.warmup_steps": 0,
}
STEPS = 2


@dataclasses.dataclass(frozen=True)
class Used:
    """What came of a target.

    Attributes:
      content: what may not change unnoticed, by name.
      identity: digests by which the code itself tells the target from another: where they have
        changed, other content is no silent difference, but another input.
      wrong: what is wrong whatever it is compared with, a line each.
    """

    content: Mapping[str, Any]
    identity: str = ""
    wrong: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """Something to damage.

    Attributes:
      make: writes it into a folder that is not there yet, given the folder of all targets.
      use: uses the target in a folder, and may write into another one.
    """

    make: Callable[[Path, Path], None]
    use: Callable[[Path, Path], Used]


def digest(*parts: bytes) -> str:
    """Of some bytes, short."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


# ---------------------------------------------------------------------------- image set


def make_images(folder: Path, _: Path) -> None:
    """HPDv2 as published: compared and ranked images, PNG, JPEG and WebP, a third in a zip file."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    compared, ranked = [], []
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for group in range(GROUPS):
            ending = ("png", "jpg", "webp")[group % 3]
            names = [f"{group:03}-{i}.{ending}" for i in range(IMAGES)]
            for i, name in enumerate(names):
                content = _picture(rng, {"jpg": "jpeg"}.get(ending, ending))
                if i == 0:
                    archive.writestr(f"images/{name}", content)
                else:
                    (folder / "images" / name).write_bytes(content)
            caption, ranks = f"a picture of thing number {group}", rng.permutation(IMAGES).tolist()
            if group < RANKED:
                annotation = {"rank": ranks, "user_hash": "0"}
                record = {"image_path": names, "rank": ranks, "raw_annotations": [annotation]}
                ranked.append({"prompt": caption, **record})
                continue
            for i, j in [*itertools.combinations(range(IMAGES), 2), (0, 1)]:  # the last once more
                votes = [int(ranks[i] < ranks[j]), int(ranks[i] > ranks[j])]
                record = {"file_path": [names[i], names[j]], "human_preference": votes}
                compared.append({"prompt": caption, **record})
    (folder / "train.json").write_text(json.dumps(compared))
    (folder / "test.json").write_text(json.dumps(ranked))


def _picture(rng: np.random.Generator, ending: str) -> bytes:
    """A file of noise."""
    pixels = rng.integers(0, 256, (*rng.integers(40, 90, 2), 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, ending)
    return file.getvalue()


def use_images(folder: Path, scratch: Path) -> Used:
    """Prepares the set, leaving out what is bad where its name says so, and reads every record."""
    skip = folder.name.endswith("skip")
    report = prepare(
        "hpdv2", folder, scratch / "prepared", on_bad_example="skip" if skip else "error"
    )
    prepared = PreparedSet(scratch / "prepared")
    pairs = [prepared.pair(row) for row in range(prepared.num_pairs)]
    images = [prepared.image(index) for index in range(prepared.num_images)]
    content = {f"pair {pair.uid}": digest(repr(pair).encode()) for pair in pairs}
    content |= {f"image {image.key}": digest(repr(image).encode()) for image in images}
    wrong = [f"image {x.key} is not of its key" for x in images if _sha256(x.image) != x.key]
    files = _image_files(folder)
    wrong += [f"image {image.key} is of no file" for image in images if image.key not in files]
    wrong += _uncounted(folder, report, len(pairs))
    columns = prepared.labels.tolist(), prepared.pair_images.tolist()
    if columns != ([p.label for p in pairs], [list(p.image_index) for p in pairs]):
        wrong.append("columns and records differ")
    return Used(content, f"{report.fingerprint} {report.input_digest}", tuple(wrong))


def _uncounted(folder: Path, report, pairs: int) -> list[str]:
    """Pairs of the input that are neither written nor counted among what was left out."""
    if report.bad_records:  # whole groups, whatever their number of pairs was to be
        return []
    ranked = json.loads((folder / "test.json").read_bytes())
    sizes = [len(record["image_path"]) for record in ranked]
    compared = len(json.loads((folder / "train.json").read_bytes()))
    asked = compared + sum(size * (size - 1) // 2 for size in sizes)
    left_out = report.dropped_pairs + report.self_pairs + report.merged_pairs + report.leaked_pairs
    if asked == pairs + left_out:
        return []
    return [f"{asked} pairs went in, {pairs} came out and {left_out} are counted as left out"]


def _image_files(folder: Path) -> set[str]:
    """Digests of all files, in the zip file too."""
    found = {_sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    with contextlib.suppress(zipfile.BadZipFile, NotImplementedError, OSError):
        archive = zipfile.ZipFile(folder / "more.zip")
        for name in archive.namelist():
            with contextlib.suppress(Exception):  # of a member that is damaged
                found.add(_sha256(archive.read(name)))
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------------------- checkpoint folder


def make_checkpoint(folder: Path, _: Path) -> None:
    """The built-in model in several files, with an index."""
    source = assets.tiny_model()
    _, params = load_model(source)
    save_pretrained(params, folder, source=source, max_shard_size="1MB")


def use_checkpoint(folder: Path, scratch: Path) -> Used:
    """Loads the model and asks it about two images, as training would."""
    model, params = load_model(folder)
    tokenizer = load_tokenizer(folder)
    policy = read_image_policy(folder, model.config.vision, PATCHES)
    prompt = PromptEncoder(tokenizer, model.config, "reason", TOKENS, PATCHES)
    encoder = PairEncoder(policy, model.config.vision, prompt)
    rng = np.random.default_rng(1)
    files = _picture(rng, "PNG"), _picture(rng, "PNG")
    batch = stack([encoder.encode(RawPair(-1, RECORD, files, ("first", "second")), False)])
    inputs = jax.device_put((batch.prompt, batch.images))
    logits = np.asarray(model.apply({"params": params}, *inputs))
    content = {
        "logits": digest(logits.tobytes()),
        "prompt": digest(np.asarray(batch.prompt.tokens).tobytes()),
        "answers": answer_token_ids(tokenizer),
        "stop": stop_token_ids(folder, tokenizer),
        "banned": model.config.banned_token_ids,
        "images": repr(policy),
        "text": tokenizer.decode(list(range(0, len(tokenizer), 7))),
    }
    wrong = []
    if not np.isfinite(logits).all():  # which an evaluation has to say
        evaluate_model(folder, scratch)
        wrong.append("logits are not finite, and an evaluation ends as if they were")
    return Used(content, folder_digest(folder), tuple(wrong))


def evaluate_model(folder: Path, scratch: Path) -> None:
    """Evaluates a model on two pairs of the image set."""
    config = run_config(_targets(folder), 1)
    run, params = open_run(config, scratch, policy=str(folder))
    evaluate_params(run, params, "evaluation")


RECORD = PairRecord(
    uid="pair",
    source="fuzz",
    split="test",
    group_id="group",
    cluster=0,
    prompt="a red square left of a blue circle",
    image_index=(0, 1),
    votes=(1.0, 0.0),
    votes_weighted=(1.0, 0.0),
    rank=(1.0, 2.0),
    label=0,
    p_first=0.75,
    criterion="overall",
    generator=("", ""),
    flags=0,
)


# ---------------------------------------------------------------------------- workdir


def run_config(folder: Path, steps: int) -> Config:
    """Of the run; the image set is that of the folder of all targets."""
    config = preset_config("tiny")
    config.data.path = str(folder / "images")
    config.data.split_fractions = RUN["data.split_fractions"]
    rest = {name: value for name, value in RUN.items() if name != "data.split_fractions"}
    config.update_from_flattened_dict(rest | {"steps": steps})
    return parse_config(config)


def make_workdir(folder: Path, targets: Path) -> None:
    """A run of two steps, which has ended."""
    train(run_config(targets, STEPS), LocalWorkdir(folder))


def use_workdir(folder: Path, scratch: Path) -> Used:
    """Exports the last checkpoint, then goes on for a step and reads all that the run wrote."""
    export_checkpoint(folder, scratch / "model", step=STEPS)
    content = {f"exported {name}": x for name, x in _tensors(scratch / "model").items()}
    config = run_config(_targets(folder), STEPS + 1)
    results = train(config, LocalWorkdir(folder), allow_changes=True)
    content |= {f"trained {name}": x for name, x in _tensors(folder / "export").items()}
    kept = {name: x for name, x in results.items() if name not in ("seconds", "export")}
    content |= {f"results {name}": kept[name] for name in kept if name != "checkpoint"}
    last = read_metrics(folder)[-1]
    content |= {name: x for name, x in last.items() if not name.startswith(CLOCK)}
    content["settings"] = (folder / "lrt_jax.json").read_text()
    return Used(content)


def _targets(folder: Path) -> Path:
    """Folder of all targets, two above every copy of one."""
    return folder.parents[1]


def _tensors(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*.safetensors"))
    tensors = {name: x for file in files for name, x in load_file(file).items()}
    return {name: digest(str(x.dtype).encode(), x.tobytes()) for name, x in tensors.items()}


TARGETS = {
    "images": Target(make_images, use_images),
    "checkpoint": Target(make_checkpoint, use_checkpoint),
    "workdir": Target(make_workdir, use_workdir),
}


def make_targets(folder: Path, names=tuple(TARGETS)) -> None:
    """Makes the targets that are not there yet; runs and evaluations need the images."""
    for name in dict.fromkeys(["images", *names]):
        if not (folder / name).exists():
            part = folder / "unfinished" / name
            shutil.rmtree(part, ignore_errors=True)
            part.parent.mkdir(parents=True, exist_ok=True)
            TARGETS[name].make(part, folder)
            part.rename(folder / name)
