"""What a variant costs, as plain data that is stored with it. Imports nothing heavy."""

from __future__ import annotations

import msgspec


class Section(msgspec.Struct, frozen=True):
    """A part of a network. `parameters` counts weights, `weight_bytes` their size in the file."""

    name: str
    parameters: int
    weight_bytes: int
    macs: int | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Counted on the file itself, for one inference at the model's input size.

    `macs` are the multiply-accumulates of convolutions, transposed convolutions and matrix
    products; everything else (activations, additions, resizing) is left out. `compressed_bytes`
    is the file deflated at level 1, estimated above 32 MiB. `sparsity` is the share of zeros
    among the weights that are multiplied by. `macs`, `sparsity` and `sections` are empty where
    they are not known, and `note` says why.
    """

    macs: int | None
    compressed_bytes: int
    sparsity: float | None
    sections: tuple[Section, ...] = ()
    note: str | None = None

    @property
    def flops(self) -> int | None:
        """Two for each multiply-accumulate: a product and a sum."""
        return None if self.macs is None else 2 * self.macs
