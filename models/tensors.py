"""The inputs and outputs of a model, as plain data. Imports nothing heavy."""

from __future__ import annotations

from typing import NamedTuple

Shape = tuple[int | str | None, ...]


class TensorInfo(NamedTuple):
    """A graph input or output: numpy's name of its dtype, and its shape.

    A dynamic dimension is its name, or None where it has none; `shape` itself is None where
    not even the rank is known.
    """

    dtype: str
    shape: Shape | None

    @property
    def fixed(self) -> bool:
        """True when every dimension is a number."""
        return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)


def show_shape(shape: Shape | None) -> str:
    """A shape as people write it: (batch, 3, ?, ?)."""
    if shape is None:
        return "(unknown rank)"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in shape) + ")"


def fits(shape: Shape | None, given: tuple[int, ...]) -> bool:
    """True when a concrete shape agrees with every known dimension."""
    return shape is None or (
        len(shape) == len(given)
        and all(not isinstance(dim, int) or dim == n for dim, n in zip(shape, given, strict=True))
    )
