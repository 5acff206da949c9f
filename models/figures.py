"""What a variant costs, as plain data that is stored with it. Imports nothing heavy."""

from __future__ import annotations

from typing import Final

import msgspec

OTHER: Final = "other"
"""What belongs to no section, where a network has sections."""


class Section(msgspec.Struct, frozen=True):
    """A part of a network. `parameters` counts weights, `weight_bytes` their size in the file.

    `weight_bytes` is None where the file does not tell whose its weights are.
    """

    name: str
    parameters: int
    weight_bytes: int | None
    macs: int | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Counted for one inference at the model's input size: on the file itself where it is ONNX.

    Of other formats, parameters and `macs` are those of the network that the file was made from.
    `macs` are the multiply-accumulates of convolutions, transposed convolutions and matrix
    products; everything else (activations, additions, resizing) is left out. `compressed_bytes`
    is the file deflated at level 1, estimated above 32 MiB. `sparsity` is the share of zeros
    among the weights that are multiplied by. `macs`, `sparsity` and `sections` are empty where
    they are not known, and `note` says why. `shapes` are those of the dynamic inputs that `macs`
    were counted at.
    """

    macs: int | None
    compressed_bytes: int
    sparsity: float | None
    sections: tuple[Section, ...] = ()
    note: str | None = None
    shapes: dict[str, tuple[int, ...]] = {}

    @property
    def flops(self) -> int | None:
        """Two for each multiply-accumulate: a product and a sum."""
        return None if self.macs is None else 2 * self.macs
