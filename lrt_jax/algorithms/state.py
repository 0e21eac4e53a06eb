"""The state that training changes, and a gradient's application to it."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from lrt_jax.parallel.collectives import replicate
from lrt_jax.rl.learner import join_frozen, split_frozen


@struct.dataclass
class TrainState:
    """All arrays on devices that a checkpoint holds.

    Parameters are flat dicts by `/`-joined path; frozen ones are there once and have no moments.
    """

    step: Int[Array, ""]  # finished steps; a step is one rollout and its updates
    trainable: dict[str, Array]
    frozen: dict[str, Array]
    opt_state: optax.OptState

    @property
    def params(self) -> dict:
        """All parameters, nested as the model takes them."""
        return join_frozen(self.trainable, self.frozen)


def initial_state(
    params: Mapping, freeze: Sequence[str], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """State before the first step, which takes over `params`.

    Everything is placed as an update will leave it, so that the second update is not compiled anew:
    moments live where their parameters live, counts on all devices.

    Args:
      params: nested parameters on the mesh.
      freeze: patterns of the paths that are not trained, see `split_frozen`.
      optimizer: for the others.
      mesh: of the devices.
    """
    trainable, frozen = split_frozen(params, freeze)
    moments = _abstract_moments(trainable, optimizer, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, moments)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(trainable)
    return TrainState(replicate(np.int32(0), mesh), trainable, frozen, opt_state)


def planned_state(
    params: Mapping, freeze: Sequence[str], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """As `initial_state`, of shapes with shardings in place of arrays."""
    trainable, frozen = split_frozen(params, freeze)
    step = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    return TrainState(step, trainable, frozen, _abstract_moments(trainable, optimizer, mesh))


def _abstract_moments(trainable: Mapping, optimizer: optax.GradientTransformation, mesh: Mesh):
    """What an optimizer keeps, as shapes with shardings: moments as their parameters have them."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def with_sharding(path, leaf) -> jax.ShapeDtypeStruct:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        known = [trainable[name].sharding for name in names if name in trainable]
        sharding = known[0] if known else replicated
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(
        with_sharding, jax.eval_shape(optimizer.init, trainable)
    )


def apply_gradient(
    state: TrainState, grads: dict[str, Array], optimizer: optax.GradientTransformation
) -> TrainState:
    """One update; does not count as a step."""
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
    return state.replace(trainable=trainable, opt_state=opt_state)


def param_norm(state: TrainState) -> Float[Array, ""]:
    """Euclidean norm of all trainable parameters: not finite if any of them is not."""
    squares = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in state.trainable.values()]
    return jnp.sqrt(sum(squares))
