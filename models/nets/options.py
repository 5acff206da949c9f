"""Which options and input sizes a network takes, refused before anything is built.

Like the tables that it reads, this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from models.errors import ModelNotFound, ShapeNeeded
from models.nets.registry import Family

ACTIVATIONS: Final = ("leaky_relu", "relu", "silu")
"""What the option `activation` may be."""


def refuse_bad(family: Family, options: Mapping[str, Any]) -> None:
    """Raise ModelNotFound unless every option has a sensible value of its default's kind."""
    for name, value in options.items():
        wanted = _misfit(name, value, family.options.get(name))
        if wanted is not None:
            raise ModelNotFound(
                f"model {family.name}: option {name}: {value!r} is not {wanted}; "
                f"without it there is {family.options[name]!r}"
            )


def _misfit(name: str, value: Any, default: Any) -> str | None:
    """What would fit instead; None where the value does, or where there is no such option."""
    if name == "activation":
        return None if value in ACTIVATIONS else f"one of {', '.join(ACTIVATIONS)}"
    if isinstance(default, int):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole and value > 0 else "a whole number above 0"
    if isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and 0 < value < float("inf") else "a number above 0"
    return None


def ultralytics_multiple(name: str) -> int:
    """What divides the input sizes of a network of ultralytics: its coarsest stride, in pixels."""
    return 64 if "-p6" in name else 32


def refuse_bad_size(model: str, imgsz_px: int, multiple_px: int) -> None:
    """Raise ShapeNeeded for an input size that the network's strides do not divide."""
    if imgsz_px < multiple_px or imgsz_px % multiple_px:
        below = max(multiple_px, imgsz_px // multiple_px * multiple_px)
        above = -(-max(imgsz_px, 1) // multiple_px) * multiple_px
        near = str(below) if below == above else f"{below} or {above}"
        raise ShapeNeeded(
            f"model {model}: imgsz {imgsz_px} is no multiple of {multiple_px}; take {near}"
        )
