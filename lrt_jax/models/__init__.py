"""The doors to a model: `load_model`, `save_pretrained`, `apply_hf`."""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import AbstractMesh, Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lrt_jax.config.choices import AttentionKernels
from lrt_jax.models import checkpoint_folder
from lrt_jax.models.api import (
    BoundModel,
    ModelConfig,
    PrefixState,
    SuffixState,
    VisionLanguageModel,
)
from lrt_jax.models.attention import attention_for
from lrt_jax.models.checkpoint_folder import (
    CARD,
    LICENCES,
    SETTINGS,
    TRAINED_ON,
    find_folder,
    folder_digest,
)
from lrt_jax.models.families import family, read_config
from lrt_jax.models.inputs import Images, Prompt
from lrt_jax.models.quantised import quantised
from lrt_jax.models.weights import Weight, check_table
from lrt_jax.models.written import check_replaceable, record_files, replace_in_bucket
from lrt_jax.parallel import processes
from lrt_jax.parallel.mesh import one_device_mesh
from lrt_jax.parallel.rules import Layout, sharding
from lrt_jax.storage.disk import new_folder

__all__ = [
    "CARD",
    "LICENCES",
    "SETTINGS",
    "TRAINED_ON",
    "BoundModel",
    "Images",
    "ModelConfig",
    "PrefixState",
    "Prompt",
    "SuffixState",
    "VisionLanguageModel",
    "abstract_params",
    "apply_hf",
    "check_replaceable",
    "empty_model",
    "find_folder",
    "folder_digest",
    "init_params",
    "load_model",
    "matrix_axes",
    "param_shardings",
    "quantised_params",
    "quantised_paths",
    "quantised_shardings",
    "read_config",
    "record_files",
    "replace_in_bucket",
    "save_pretrained",
    "undivided_parameters",
]


def empty_model(folder: str | Path, **options: Any) -> VisionLanguageModel:
    """A model of the sizes of a Hugging Face folder, without parameters.

    Args:
      folder: on disk, of any family, which its `config.json` names.
      **options: attributes of the model, such as `dtype`.

    Raises:
      FileNotFoundError: the folder has no `config.json`.
      ValueError: see `families.read_config`.
    """
    config = read_config(folder)
    return family(config).model(config, **options)


def load_model(
    path_or_hub_id: str | Path,
    dtype: DTypeLike = jnp.float32,
    *,
    param_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    layout: Layout = "train",
    remat: str = "full",
    attention: AttentionKernels = "auto",
    seed: int | None = None,
) -> tuple[VisionLanguageModel, dict]:
    """Opens a Hugging Face folder or a Hub id.

    Args:
      path_or_hub_id: folder with `config.json` and safetensors in either of the two layouts, or a
        name on the Hub.
      dtype: of activations.
      param_dtype: of parameters; as `dtype` if not given.
      mesh: where the parameters go, of which every process reads its part; the process's first
        device if not given.
      layout: column of the sharding table.
      remat: what a layer keeps for its backward pass.
      attention: kernels; `auto` takes those that are made for the devices and the dtype.
      seed: to draw new weights by; the folder then needs a `config.json` alone.

    Returns:
      The model and its parameters.

    Raises:
      FileNotFoundError: there is no such model, or it has no safetensors.
      ValueError: the files do not fit the config; every tensor concerned is named. Or kernels
        that the devices do not have.
    """
    folder = find_folder(path_or_hub_id)
    mesh = mesh if mesh is not None else one_device_mesh()
    kernels = attention_for(attention, mesh.devices.flat[0].platform, dtype)
    model = empty_model(folder, dtype=dtype, remat=remat, attention=kernels)
    param_dtype = param_dtype or dtype
    if seed is None:
        like = _flat_abstract(model, mesh, layout, param_dtype)
        return model, checkpoint_folder.load_params(folder, _weights(model), like)

    def draw(key: jax.Array) -> dict:
        return jax.tree.map(lambda leaf: leaf.astype(param_dtype), init_params(model, key))

    shardings = param_shardings(model, mesh, layout)
    return model, jax.jit(draw, out_shardings=shardings)(jax.random.key(seed))


def save_pretrained(
    params: Mapping,
    folder: str | Path,
    *,
    source: str | Path,
    files: Mapping[str, bytes] = MappingProxyType({}),
    dtype: DTypeLike | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes a Hugging Face folder that transformers opens.

    The folder appears when it is whole: it is written under another name and then renamed. It
    replaces what an earlier call wrote, as long as nobody changed that, and nothing else. Where
    there are several processes, each must call this: together they gather a tensor at a time, the
    first writes, and all wait for it.

    Args:
      params: parameters of the model.
      folder: to write.
      source: folder of the checkpoint that the parameters come from: its config, tokenizer and
        processor files and its licence are copied, and tensors keep the dtype that they have
        there, so that unchanged weights come back bit for bit.
      files: contents of further files, or of others than the source's, by name.
      dtype: of all tensors, instead of the source's.
      max_shard_size: bytes, or a size such as "5GB".

    Raises:
      FileExistsError: the folder holds a file that no earlier call wrote, or that was changed.
    """
    folder, source = Path(folder), Path(source)
    if processes.is_first():
        check_replaceable(folder)
    config = read_config(source)
    table = family(config).weight_table(config)
    dtype_of = (lambda _: np.dtype(dtype)) if dtype else _source_dtypes(source, params)
    writing = new_folder(folder, replace=True) if processes.is_first() else nullcontext()
    with writing as partial:
        checkpoint_folder.save_params(
            params, partial, table, dtype_of, max_shard_size=max_shard_size
        )
        if partial is not None:
            checkpoint_folder.copy_companions(source, partial)
            for name, content in files.items():
                (partial / name).write_bytes(content)
            record_files(partial)
            check_replaceable(folder)  # to write takes long, and somebody may have come meanwhile
    processes.barrier("the model is written")


def apply_hf(
    model: VisionLanguageModel, params: Mapping, inputs: Mapping[str, np.ndarray]
) -> Float[Array, "batch length vocab"]:
    """Logits for exactly the dict that transformers' processor returns.

    Args:
      model: of `load_model`.
      params: of `load_model`.
      inputs: NumPy arrays `input_ids`, `attention_mask`, `mm_token_type_ids`, and, if there are
        images, `pixel_values` and `image_grid_thw`; padded on the left or on the right.

    Returns:
      float32 logits; those of padding are zero.

    Raises:
      KeyError: an input is missing.
      ValueError: an input is not for still images.
    """
    return family(model.config).apply_hf(model, params, inputs)


def init_params(model: VisionLanguageModel, key: jax.Array) -> dict:
    """Random float32 parameters."""
    p = model.config.vision.patch_multiple
    images = Images(
        patches=jnp.zeros((1, 2, p, model.config.vision.patch_dim), jnp.uint8),
        coords=jnp.zeros((1, 2, p, 2), jnp.int32),
        window=jnp.zeros((1, 2, p), jnp.int32),
    )
    prompt = Prompt(
        tokens=jnp.zeros((1, 2), jnp.int32),
        positions=jnp.zeros((1, 3, 2), jnp.int32),
        image_index=jnp.full((1, 2), -1, jnp.int32),
        length=jnp.full((1,), 2, jnp.int32),
    )
    return model.copy(sharding=None).init(key, prompt, images)["params"]


def param_shardings(model: VisionLanguageModel, mesh: Mesh | AbstractMesh, layout: Layout) -> dict:
    """Sharding of every parameter, as a tree like the parameters'.

    Raises:
      ValueError: model, weight table and sharding rules do not fit each other, see `check_table`.
    """
    abstract = abstract_params(model, mesh, layout, jnp.float32)
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def abstract_params(
    model: VisionLanguageModel, mesh: Mesh | AbstractMesh, layout: Layout, dtype: DTypeLike
) -> dict:
    """Shapes, dtype and shardings of the parameters, without their values."""
    flat = _flat_abstract(model, mesh, layout, dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def matrix_axes(model: VisionLanguageModel) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes that are inputs and outputs of each product's weights, by path; others are layers."""
    axes = {}
    for path, weight in _weights(model).items():
        if weight.inputs:
            first = int(weight.stacked)
            outputs = first + weight.inputs
            axes[path] = tuple(range(first, outputs)), tuple(range(outputs, len(weight.axes)))
    return axes


def quantised_params(model: VisionLanguageModel, params: Mapping) -> dict:
    """A copy to sample from: weights in int8 where the model's layers take them so, see
    `Family.quantised`, and all else in the model's dtype.

    Raises:
      ValueError: none of the model's layers takes them.
    """
    paths, axes = quantised_paths(model), matrix_axes(model)
    copy = {
        path: quantised(leaf, axes[path][0]) if path in paths else leaf.astype(model.dtype)
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    return traverse_util.unflatten_dict(copy, sep="/")


def quantised_shardings(
    model: VisionLanguageModel, mesh: Mesh | AbstractMesh, layout: Layout
) -> dict:
    """Sharding of all that `quantised_params` returns: scales live where their channels do."""
    table, rules = _weights(model), family(model.config).rules
    abstract = abstract_params(model, mesh, layout, jnp.float32)
    copy = jax.eval_shape(partial(quantised_params, model), abstract)
    shardings = {
        path: jax.tree.map(
            lambda x, axes=table[path].axes: sharding(mesh, axes, layout, x.shape, rules), leaf
        )
        for path, leaf in traverse_util.flatten_dict(copy, sep="/").items()
    }
    return traverse_util.unflatten_dict(shardings, sep="/")


def quantised_paths(model: VisionLanguageModel) -> set[str]:
    """Paths of the weights that `quantised_params` has in int8.

    Raises:
      ValueError: there are none.
    """
    pattern = family(model.config).quantised
    if pattern is None:
        raise ValueError(
            f"sampling.weights: no layer of {model.config.model_type} takes int8; take full"
        )
    return {path for path in matrix_axes(model) if re.fullmatch(pattern, path)}


def undivided_parameters(model: VisionLanguageModel, mesh: Mesh, layout: Layout) -> list[str]:
    """Paths of the parameters that a layout would divide further, if their sizes allowed it."""
    table, rules = _weights(model), family(model.config).rules
    return [
        path
        for path, leaf in _flat_abstract(model, mesh, layout, jnp.float32).items()
        if leaf.sharding.spec != sharding(mesh, table[path].axes, layout, rules=rules).spec
    ]


def _weights(model: VisionLanguageModel) -> dict[str, Weight]:
    return family(model.config).weight_table(model.config)


def _flat_abstract(
    model: VisionLanguageModel, mesh: Mesh | AbstractMesh, layout: Layout, dtype: DTypeLike
) -> dict[str, jax.ShapeDtypeStruct]:
    """As `abstract_params`, by path."""
    tree = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))  # moves nothing to devices
    flat = traverse_util.flatten_dict(tree, sep="/")
    table, rules = _weights(model), family(model.config).rules
    check_table(table, rules, flat.keys())
    shardings = {x: sharding(mesh, table[x].axes, layout, flat[x].shape, rules) for x in flat}
    return {x: jax.ShapeDtypeStruct(flat[x].shape, dtype, sharding=shardings[x]) for x in flat}


def _source_dtypes(source: Path, params):
    """Dtype of each tensor in `source`, or of the parameters where it holds no weights."""
    if not any(source.glob("*.safetensors")):
        dtype = np.dtype(jax.tree.leaves(params)[0].dtype)
        return lambda _: dtype
    files = checkpoint_folder.TensorFiles(source)
    dtypes = {name: files.dtype(name) for name in files.names()}
    return dtypes.__getitem__
