"""The families of models that there are: folders in here, by the `model_type` of a checkpoint."""

import importlib
import pkgutil
import sys
from pathlib import Path

from lrt_jax.models.api import Family, ModelConfig, PublishedModel
from lrt_jax.storage.disk import read_fields

OTHER_ROOMS = ("attention",)  # folders in here that are no families
REMEDY = "take the config.json that came with the checkpoint"


def read_config(folder: str | Path) -> ModelConfig:
    """Reads `config.json` of a Hugging Face folder.

    Raises:
      FileNotFoundError: the folder has no `config.json`.
      ValueError: another family than those that there are, or what its port does not implement.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model folder has a config.json")
    model_type = read_fields(path, REMEDY).get("model_type")
    if model_type not in (known := names()):
        listed = ", ".join(map(repr, known))
        raise ValueError(
            f"{path}: model_type is {model_type!r}, this code reads {listed}; name the folder of "
            "such a model"
        )
    return _room(model_type).read_config(Path(folder))


def names() -> list[str]:
    """Of all families."""
    rooms = sys.modules[__package__].__path__
    folders = {found.name for found in pkgutil.iter_modules(rooms) if found.ispkg}
    return sorted(folders.difference(OTHER_ROOMS))


def family(config: ModelConfig) -> Family:
    """The family of a config, by its `model_type`."""
    return _room(config.model_type)


def published_models() -> dict[str, PublishedModel]:
    """Checkpoints of all families whose sizes are known without their files, by Hub id."""
    return {name: model for room in names() for name, model in _room(room).published.items()}


def _room(name: str) -> Family:
    return importlib.import_module(f"{__package__}.{name}").FAMILY
