"""Models on a Hub that stands in for the real one, and what is said where it refuses."""

import pytest
from huggingface_hub import constants

from lrt_jax.training import hub
from lrt_jax.training.hub import PushError
from tests.training.hub_models import NAME, model_hub


@pytest.fixture
def server(monkeypatch):
    with model_hub(monkeypatch) as server:
        yield server


@pytest.fixture
def model(tmp_path):
    """Two files that stand for an exported model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("# a judge")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("public", [False, True])
def test_a_model_is_uploaded_and_seen_by_whom_it_should_be(server, model, public):
    assert hub.open_repo(NAME, public=public) == NAME
    assert server.private == (not public) and not server.files
    assert hub.upload(model, NAME, "Step 4") == f"{server.address}/{NAME}"
    assert server.files == {path.name: path.read_bytes() for path in model.iterdir()}
    assert server.commits == ["Step 4"]
    # The library may ask once for something else, which is nobody's secret.
    of_models = {token for path, token in server.asked if "/repos/" in path or NAME in path}
    assert of_models == {"Bearer hf_made_up"}, server.asked


def test_weights_of_the_model_before_do_not_stay(server, model):
    server.private = True
    server.files |= {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"}
    server.files |= {"model.safetensors.index.json": b"{}"}
    hub.upload(model, hub.open_repo(NAME, public=False), "Step 8")
    assert server.files.keys() == {"README.md", "model.safetensors", "notes.txt"}


@pytest.mark.parametrize("public", [False, True])
def test_a_repository_that_others_see_than_asked_for(server, public):
    server.private = public
    remedy = "leave out --public" if public else "add --public"
    with pytest.raises(PushError, match=f"is there already, and .*; {remedy}, or take another"):
        hub.open_repo(NAME, public=public)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, f"--push_to_hub={NAME}: the Hub does not know this token; run: hf auth login"),
        (403, f"--push_to_hub={NAME}: this token may not write there; take one that may, or"),
        (500, f"--push_to_hub={NAME}: the Hub refuses \\("),
    ],
)
def test_refusals_at_the_door(server, status, message):
    server.refuse = (status, "", "")  # whatever is asked
    with pytest.raises(PushError, match=message) as caught:
        hub.open_repo(NAME, public=False)
    assert "\n" not in str(caught.value)


def test_a_refused_upload_says_where_the_model_is(server, model):
    server.refuse = (403, "", "commit")
    with pytest.raises(PushError, match=f"model is whole in {model}: hf upload {NAME} {model}$"):
        hub.upload(model, hub.open_repo(NAME, public=False), "Step 4")
    assert not server.files


def test_no_token(server, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(PushError, match="no token; run: hf auth login, or set HF_TOKEN"):
        hub.open_repo(NAME, public=False)
    assert not server.asked


def test_no_name_of_a_repository(server):
    with pytest.raises(PushError, match="--push_to_hub=a/b/c: no name of a repository: "):
        hub.open_repo("a/b/c", public=False)


def test_no_way_to_the_hub(server, model, monkeypatch):
    server.server_close()
    with pytest.raises(PushError, match=r"no way to the Hub \(.*\); see to the network$"):
        hub.open_repo(NAME, public=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set; unset it"):
        hub.open_repo(NAME, public=False)
