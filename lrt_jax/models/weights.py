"""What a parameter of ours is called and how it lies on disk, read in both directions.

Every family has one table of them. Ours are `[*inputs, *outputs]` with heads spelled out and layers
stacked in front; the hub's are `[outputs, inputs]`, one tensor a layer.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Literal

import numpy as np

from lrt_jax.parallel.rules import Rules, check_rules

Kind = Literal["matrix", "vector", "table", "conv"]
Block = Sequence[tuple[int, int]]  # begin and end on every axis
Slices = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter of ours and what it is called on disk.

    Attributes:
      path: of our parameter, joined by `/`.
      name: on disk, hub spelling, with `{}` for the layer where ours are stacked.
      axes: logical axes of our parameter, `layers` first where stacked (see `parallel.rules`).
      kind: how the two shapes relate: `matrix` is transposed and flattened, `conv` transposed,
        `vector` flattened, `table` the same.
      inputs: how many of our axes (without `layers`) are inputs of the product.
    """

    path: str
    name: str
    axes: tuple[str, ...]
    kind: Kind = "vector"
    inputs: int = 0

    @property
    def stacked(self) -> bool:
        return self.axes[0] == "layers"

    def to_disk(self, value: np.ndarray) -> np.ndarray:
        """One layer's value, in the hub's shape."""
        order = [axis for group in self._groups() for axis in group]
        return value.transpose(order).reshape(self.disk_shape(value.shape))

    def from_disk(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One layer's value of our `shape`, or a part of it, from the hub's."""
        order = [axis for group in self._groups() for axis in group]
        return value.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))

    def disk_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The hub's shape of one layer whose shape is `shape` with us."""
        return tuple(math.prod(shape[axis] for axis in group) for group in self._groups())

    def slices(
        self, block: Block, shape: tuple[int, ...], rows: int
    ) -> Iterator[tuple[Slices, Slices]]:
        """Cuts a block of one layer into slices that are blocks on disk too.

        Args:
          block: where it begins and ends on each of our axes (without `layers`).
          shape: ours, of the whole layer.
          rows: no slice has more of the hub's rows, unless a single index of ours does.

        Yields:
          Where a slice is in the block, and where in the hub's tensor.
        """
        groups, longest = self._groups(), (rows, *self.disk_shape(shape)[1:])
        order = [axis for group in groups for axis in group]
        runs = [
            list(_runs([block[a] for a in group], [shape[a] for a in group], most))
            for group, most in zip(groups, longest, strict=True)
        ]
        for slices in itertools.product(*runs):
            ours = [one for run, _ in slices for one in run]
            yield tuple(ours[i] for i in np.argsort(order)), tuple(one for _, one in slices)

    def _groups(self) -> list[tuple[int, ...]]:
        """For each of the hub's axes, those of ours (without `layers`) that it flattens."""
        axes = tuple(range(len(self.axes) - self.stacked))
        inputs, outputs = axes[: self.inputs], axes[self.inputs :]
        if self.kind == "vector":
            return [axes]
        if self.kind == "matrix":
            return [outputs, inputs]
        return [(axis,) for axis in outputs + inputs]


def _runs(block: Block, shape: Sequence[int], longest: int) -> Iterator[tuple[Slices, slice]]:
    """Cuts a block of axes that are flattened on disk into slices that lie there in one run.

    Yields where a slice is in the block, and where on the flattened axis.
    """
    divided = [axis for axis, size in enumerate(shape) if block[axis] != (0, size)]
    cut = max(divided, default=0)  # the axes after it are whole, so that its runs are runs on disk
    inner, whole = math.prod(shape[cut + 1 :]), [slice(None)] * len(shape[cut + 1 :])
    begin, end = block[cut]
    step = max(1, longest // inner)
    for before in itertools.product(*(range(*bounds) for bounds in block[:cut])):
        first = int(np.ravel_multi_index((*before, 0), shape[: cut + 1]))
        inside = [i - bounds[0] for i, bounds in zip(before, block[:cut], strict=True)]
        for start in range(begin, end, step):
            stop = min(start + step, end)
            yield (
                (*[slice(i, i + 1) for i in inside], slice(start - begin, stop - begin), *whole),
                slice((first + start) * inner, (first + stop) * inner),
            )


def check_table(table: Mapping[str, Weight], rules: Rules, parameters: Set[str]) -> None:
    """Holds a family's table against the model's parameters and its sharding rules, both ways.

    Args:
      table: every weight of a checkpoint, by our path.
      rules: mesh axes of the parameters' logical axes.
      parameters: paths of what the model has.

    Raises:
      ValueError: a parameter is not in the table, or the reverse, or see `check_rules`.
    """
    unknown, missing = sorted(parameters - table.keys()), sorted(table.keys() - parameters)
    if unknown or missing:
        raise ValueError(
            "the weight table and the model do not fit: "
            f"parameters that the table does not know: {', '.join(unknown) or 'none'}; "
            f"weights of the table that are no parameter: {', '.join(missing) or 'none'}"
        )
    check_rules({path: weight.axes for path, weight in table.items()}, rules)
