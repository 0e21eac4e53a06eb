"""The examples and the notebook run, on the built-in model."""

import contextlib
import functools
import io
import json
import os
import runpy
from pathlib import Path

import jax
import pytest

from lrt_jax import RewardModel
from lrt_jax.parallel.mesh import make_mesh

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "reward_model.ipynb"


@pytest.fixture(scope="module", autouse=True)
def opened_once():
    """The model, on one device, for all examples."""
    open_model = functools.cache(RewardModel.from_pretrained)
    mesh = make_mesh(devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModel, "from_pretrained", lambda path: open_model(path, mesh=mesh))
        yield


def printed(name: str, capsys) -> list[str]:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def test_generations_are_ranked(capsys):
    lines = printed("rank_generations.py", capsys)
    scores = [float(line.split()[1]) for line in lines[4:9]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1
    assert lines[-2].startswith("image ") and lines[-1].startswith("First:")


def test_a_data_set_is_filtered(capsys):
    *kept, last = printed("filter_pairs.py", capsys)
    assert last == f"{len(kept)} of 12 pairs kept" and 0 < len(kept) < 12
    assert all(not 0.2 < float(line.split()[0]) < 0.8 for line in kept)


def test_a_reward_trains_a_generator(capsys):
    chances = [float(line.split()[3].strip(",")) for line in printed("reward_in_a_loop.py", capsys)]
    assert len(chances) == 8 and chances[-1] > chances[0] + 0.2


def test_the_notebook_runs_from_its_first_cell_to_its_last():
    """LRT_WRITE_DOCS=1 keeps what its cells print."""
    notebook, names = json.loads(NOTEBOOK.read_text()), {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        text = out.getvalue().splitlines(keepends=True)
        shown = [{"name": "stdout", "output_type": "stream", "text": text}] if text else []
        if not os.environ.get("LRT_WRITE_DOCS"):
            assert [*map(len, (x["text"] for x in cell["outputs"]))] == [len(text)] * bool(text)
        cell |= {"execution_count": number, "outputs": shown}
    if os.environ.get("LRT_WRITE_DOCS"):
        NOTEBOOK.write_text(json.dumps(notebook, indent=1) + "\n")
    assert len(cells) == 5
