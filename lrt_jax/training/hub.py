"""An exported model on the Hugging Face Hub."""

import contextlib
import http
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, errors, get_token

from lrt_jax.storage.disk import first_line

FLAG = "push_to_hub"
STALE = ("*.safetensors", "*.safetensors.index.json")  # of an earlier model, in other files


def open_repo(name: str, *, public: bool) -> str:
    """Finds a model repository, or makes it, before there is anything to upload.

    Args:
      name: `owner/name`; without an owner it is the token's.
      public: whether everybody may see it.

    Returns:
      Its whole name.

    Raises:
      PushError: there is no token or no way to the Hub, it refuses, or the repository is there
        and seen by others than was asked for.
    """
    with _explaining(name):
        if not get_token():
            raise PushError(name, "no token; run: hf auth login, or set HF_TOKEN")
        whole = HfApi().create_repo(name, private=not public, exist_ok=True).repo_id
        private = HfApi().model_info(whole).private
    if private == public:
        now, remedy = ("private", "leave out --public") if private else ("public", "add --public")
        raise PushError(whole, f"is there already, and {now}; {remedy}, or take another name")
    return whole


def upload(folder: Path, name: str, message: str) -> str:
    """Puts an exported model into a repository of `open_repo`, in place of the one there.

    Returns:
      Its address.

    Raises:
      PushError: the Hub refuses, or cannot be reached.
    """
    with _explaining(name, f"; the model is whole in {folder}: hf upload {name} {folder}"):
        HfApi().upload_folder(
            repo_id=name, folder_path=folder, commit_message=message, delete_patterns=[*STALE]
        )
    return f"{HfApi().endpoint}/{name}"


class PushError(ValueError):
    """Why a model is not on the Hub, and what to do about it."""

    def __init__(self, name: str, what: str):
        super().__init__(f"--{FLAG}={name}: {what}")


@contextlib.contextmanager
def _explaining(name: str, also: str = "") -> Iterator[None]:
    """Says what the Hub's client says in a line, with the remedy."""
    try:
        yield
    except PushError:
        raise
    except errors.HFValidationError as error:
        raise PushError(name, f"no name of a repository: {first_line(error)}") from None
    except errors.OfflineModeIsEnabled:
        raise PushError(name, f"HF_HUB_OFFLINE is set; unset it{also}") from None
    except errors.HfHubHTTPError as error:
        raise PushError(name, f"{_refusal(error)}{also}") from None
    except Exception as error:  # of the libraries below: sockets, certificates, proxies
        what = f"no way to the Hub ({first_line(error)}); see to the network"
        raise PushError(name, f"{what}{also}") from None


def _refusal(error: errors.HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == http.HTTPStatus.UNAUTHORIZED:
        return "the Hub does not know this token; run: hf auth login"
    if status == http.HTTPStatus.FORBIDDEN:
        return "this token may not write there; take one that may, or a name of your own"
    return f"the Hub refuses ({first_line(error)})"
