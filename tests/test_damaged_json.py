"""Files that should hold a JSON object with fields, and hold something else, are told by name."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lrt_jax import assets
from lrt_jax.assets.make_tiny import ship
from lrt_jax.config.scenes import OPTIONS, TRUTH, ScenesOptions
from lrt_jax.data.dataset.prepared_set import REPORT, REPORT_FIELDS, PreparedSet
from lrt_jax.data.dataset.trained_on import TrainedOn
from lrt_jax.data.input.demonstrations import DemonstrationEncoder, DemonstrationFile
from lrt_jax.data.input.patches import read_image_policy
from lrt_jax.data.input.tokenizer import load_tokenizer, stop_token_ids
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.preparation.report import BuildReport
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.evaluation.scene_truth import find_truth
from lrt_jax.models import SETTINGS, TRAINED_ON, check_replaceable, load_model
from lrt_jax.models.checkpoint_folder import INDEX
from lrt_jax.models.written import LIST
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.training.evaluations import read_evaluation
from lrt_jax.training.files import recorded_config
from lrt_jax.training.loop import read_results
from lrt_jax.training.roles import comes_from_tiny
from tests.algorithms.test_sft import RECORD
from tests.data.small_encoder import VISION
from tests.training.small_run import write_hpdv2

DAMAGE = {"list": "[]", "no fields": "{}", "no end": '{"a": ' + "[" * 100_000}


# ---------------------------------------------------------------------------- prepared sets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    prepare("hpdv2", write_hpdv2(folder / "in"), folder / "out", near_duplicates="keep")
    return folder / "out"


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "set")


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_report_is_told_by_its_name(copy, content):
    (copy / REPORT).write_text(content)
    with pytest.raises(ValueError, match=rf"set/{REPORT}: .*; copy the prepared set again"):
        PreparedSet(copy)


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_an_output_with_a_damaged_report_is_not_reused(copy, prepared, content):
    (copy / REPORT).write_text(content)
    with pytest.raises(ValueError, match=rf"set/{REPORT}: .*; choose another output"):
        prepare("hpdv2", prepared.parent / "in", copy, near_duplicates="keep")


def change(path: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(BuildReport)])
def test_a_field_that_a_report_lacks_is_told(copy, field):
    path = copy / REPORT
    change(path, lambda report: report.pop(field))
    with pytest.raises(ValueError, match=rf"set/{REPORT}: .*; copy the prepared set") as caught:
        BuildReport.from_json(PreparedSet(copy).report, path)
    assert field in str(caught.value)


@pytest.mark.parametrize("field", REPORT_FIELDS)
def test_a_field_of_a_report_that_is_of_another_type_is_told(copy, field):
    change(copy / REPORT, lambda report: report.update({field: 0.5}))
    with pytest.raises(ValueError, match=rf"set/{REPORT}: .*{field}.*; copy the prepared set"):
        PreparedSet(copy)


# ---------------------------------------------------------------------------- other files


BUILT_IN = load_tokenizer(assets.tiny_model())


def tiny_model(folder: Path) -> None:
    shutil.copytree(assets.tiny_model(), folder)


def ended_run(folder: Path) -> None:
    for part in ("checkpoints/2", "export"):
        (folder / part).mkdir(parents=True)
    for name in ("export/config.json", "export/model.safetensors", "config.json", "results.json"):
        (folder / name).write_text("{}")


def scenes(folder: Path) -> None:
    write_scenes(folder, ScenesOptions(train=1, validation=1, test=0))


def truth(folder: Path) -> None:
    find_truth(SimpleNamespace(beside=lambda name: folder / name))


def lessons(folder: Path) -> None:
    book = DemonstrationFile(str(folder / "lessons.jsonl"))
    DemonstrationEncoder(BUILT_IN, 2, 1, 8, book).check([RECORD])


# A damaged file, what makes the folder that it is in, if anything, and what reads it there.
READERS = [
    ("config.json", tiny_model, load_model),
    (INDEX, tiny_model, load_model),
    (LIST, tiny_model, check_replaceable),
    (SETTINGS, tiny_model, lambda folder: comes_from_tiny(str(folder))),
    ("preprocessor_config.json", tiny_model, lambda folder: read_image_policy(folder, VISION, 64)),
    ("tokenizer.json", tiny_model, load_tokenizer),
    ("tokenizer_config.json", tiny_model, load_tokenizer),
    ("generation_config.json", None, lambda folder: stop_token_ids(folder, BUILT_IN)),
    (TRAINED_ON, None, lambda folder: TrainedOn.read(folder / TRAINED_ON)),
    ("config.json", None, recorded_config),
    ("results.json", ended_run, lambda folder: read_results(str(folder), 2)),
    ("results.json", ended_run, lambda folder: ship(folder, folder / "out")),
    ("eval/step-000002.json", None, lambda folder: read_evaluation(folder, 2)),
    ("metrics.jsonl", None, read_metrics),
    ("lessons.jsonl", None, lessons),
    (OPTIONS, None, scenes),
    (TRUTH, None, truth),
]
# Without fields these say nothing, and the other files of the folder say all.
MAY_BE_EMPTY = ("generation_config.json", "tokenizer_config.json")
TOLD_BY_FOLDER = ("tokenizer.json", "tokenizer_config.json", OPTIONS)  # of which all is taken anew


CASES = [
    pytest.param(*reader, DAMAGE[damage], id=f"{reader[0]}-{damage}-{number}")
    for number, reader in enumerate(READERS)
    for damage in DAMAGE
    if damage != "no fields" or reader[0] not in MAY_BE_EMPTY
]


@pytest.mark.parametrize(("name", "make", "read", "content"), CASES)
def test_a_damaged_file_is_told_by_its_name_with_a_remedy(tmp_path, name, make, read, content):
    folder = tmp_path / "there"
    if make:
        make(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content + "\n")
    told = folder if name in TOLD_BY_FOLDER else folder / name
    with pytest.raises((ValueError, FileExistsError), match=rf"^{told}.*; \w"):
        read(folder)
