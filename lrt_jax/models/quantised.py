"""Weights in int8: a whole number for each, and a scale for each channel of the product's result.

Activations are not quantised. Where such a weight is used it is made a number of the activations'
dtype again, which the compiler does as it reads the weight for the product.
"""

from collections.abc import Collection

import jax.numpy as jnp
import qwix
from flax.linen import dtypes
from jax.typing import DTypeLike
from jaxtyping import Array, Float

INT8 = jnp.dtype("int8")
# The largest of a channel is 127 scales. It would be 127.5, which rounds to 128, and what a device
# makes of that as an int8 is its own affair.
CALIBRATION = f"absmax,{127.5 / 127}"


def quantised(weight: Float[Array, "..."], inputs: Collection[int]) -> qwix.QArray:
    """A weight in int8, from -127 to 127, with scales in float32.

    Args:
      weight: of one product, or of several stacked.
      inputs: axes that the product sums over; a channel is what has the same place on the others.
    """
    others = [axis for axis in range(weight.ndim) if axis not in inputs]
    return qwix.quantize(
        weight.astype(jnp.float32),
        INT8,
        channelwise_axes=others,
        calibration_method=CALIBRATION,
    )


def promote_dtype(*arrays: Array | qwix.QArray | None, dtype: DTypeLike) -> list[Array | None]:
    """As flax's, of arrays that may be quantised; for layers whose kernel may be."""
    whole = (qwix.dequantize(x) if isinstance(x, qwix.QArray) else x for x in arrays)
    return dtypes.promote_dtype(*whole, dtype=dtype)
