"""Where the model lies that a path names."""

from pathlib import Path

from lrt_jax import assets
from lrt_jax.models.checkpoint_folder import find_folder
from lrt_jax.storage.disk import expanded


def model_folder(path: str) -> Path:
    """Folder of a model: `tiny`, an HF folder, a run's workdir, or a Hub id.

    Raises:
      FileNotFoundError: there is none.
    """
    if path in assets.BUILT_IN:
        return assets.built_in_model(path)
    workdir = Path(expanded(path))
    if (workdir / "export" / "config.json").is_file():
        return (workdir / "export").resolve()
    if (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{path}: a run that has not ended and so has exported no model; "
            f"python -m lrt_jax.export --checkpoint={path} --output=FOLDER makes one"
        )
    return find_folder(path).resolve()


def model_name(path: str) -> str:
    """What to call the model of a path elsewhere: its Hub id, `tiny`, or its folder's name."""
    folder = Path(expanded(path))
    return folder.resolve().name if folder.is_dir() else path
