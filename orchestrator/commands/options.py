"""The options that name an experiment, shared by `run` and `build`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Shape(click.ParamType):  # type: ignore[type-arg] # generic in newer versions of click only
    """NAME=1,3,224,224."""

    name = "NAME=DIMS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """Name and dimensions of an input."""
        name, equals, dims = str(value).rpartition("=")
        parts = dims.split(",")
        if not equals or not name or not all(p.isdecimal() and int(p) > 0 for p in parts):
            self.fail(f"expected NAME=1,3,224,224, got '{value}'", param, ctx)
        return name, tuple(int(part) for part in parts)


_OPTIONS: Final = (
    click.argument("experiment", required=False),
    click.option(
        "--profile", metavar="NAME", help="smoke, quick or normal, instead of the experiment's."
    ),
    click.option("--model", metavar="PATH|NAME", help="An experiment of this model alone."),
    click.option(
        "--recipes", metavar="A,B", help="Of EXPERIMENT only these; of --model these.  [fp32]"
    ),
    click.option(
        "--scale", metavar="NAME", help="smoke or full, of an experiment that has several sizes."
    ),
    click.option(
        "--data", metavar="DIR", help="Labelled images (VOC, COCO, YOLO, masks) to be used."
    ),
    click.option(
        "--calibration", metavar="DIR", help="With --model: images or .npy files for INT8 ranges."
    ),
    click.option("--shape", "shapes", type=Shape(), multiple=True, help="Fix a dynamic input."),
    click.option(
        "--build-on", metavar="NAME|URL", help="Build on a builder of the inventory, or on tls://."
    ),
    click.option(
        "--imgsz", type=click.IntRange(32, 4096), help="With --model: square size in pixels."
    ),
)


def experiment_options(function: _Function) -> _Function:
    """Add EXPERIMENT and the options that replace or change it."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def listed(text: str | None) -> tuple[str, ...]:
    """The items of a list with commas, blanks around them ignored."""
    return tuple(item for part in (text or "").split(",") if (item := part.strip()))


def refuse_mixture(experiment: str | None, given: Mapping[str, Any]) -> None:
    """An experiment brings its own models and data; raises click.UsageError."""
    if given["model"] is not None:
        if experiment is not None:
            raise click.UsageError("EXPERIMENT and --model exclude each other.")
        if given["scale"] is not None:
            raise click.UsageError("--scale goes with EXPERIMENT.")
        return
    for name in ("calibration", "shapes", "imgsz"):
        if given[name]:
            option = "shape" if name == "shapes" else name
            raise click.UsageError(f"--{option} goes with --model.")
