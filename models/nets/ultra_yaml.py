"""What an ultralytics yaml says, and how it is scaled. Pure functions; imports nothing of theirs.

Their keys: `scales` holds [depth, width, max_channels] by letter and `scale` chooses one; yaml
files without `scales` may have `depth_multiple` and `width_multiple`. `width` multiplies the
channels of a layer after `max_channels` has capped them, `depth` its repeats.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Final

from models.errors import ModelNotFound

OPTIONS: Final = ("num_classes", "depth", "width", "max_channels", "compound")
"""What a model entry of an experiment may set for a yaml; each replaces the yaml's own value, but
`compound`, which multiplies depth, width and input size at once."""
COMPOUND: Final = {"depth": 1.2, "width": 1.1, "imgsz": 1.15}
"""Tan and Le, 'EfficientNet' (arXiv 1905.11946, section 3.3): each to the power of `compound`, so
that the arithmetic about doubles with each step."""
_STRIDE: Final = 32
"""Pixels: detectors take multiples of it."""

_UNCAPPED: Final = 1 << 20
_DIVISOR: Final = 8
_INNER: Final = {"RepNCSPELAN4": (1, 2), "ELAN1": (1, 2), "SPPELAN": (1,)}
"""Arguments that are widths inside a block, which ultralytics leaves as they are."""


def described(yaml: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a yaml that decides the network: no paths, the chosen scale alone."""
    kept = {key: value for key, value in yaml.items() if key not in ("yaml_file", "channels")}
    kept = copy.deepcopy(kept)
    if kept.get("scales"):
        letter = kept.get("scale") or next(iter(kept["scales"]))
        kept["scale"], kept["scales"] = letter, {letter: list(kept["scales"][letter])}
    return kept


def scaled(yaml: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A description with `options` (see OPTIONS) in it; raises ModelNotFound naming a bad one."""
    refuse_bad(options)
    result = described(yaml)
    if "num_classes" in options:
        result["nc"] = int(options["num_classes"])
    if not set(options) - {"num_classes"}:
        return result
    own_depth, own_width, own_cap = _scale(result)
    power = options.get("compound", 0)
    depth = options.get("depth", own_depth) * COMPOUND["depth"] ** power
    width = options.get("width", own_width) * COMPOUND["width"] ** power
    cap = options.get("max_channels", own_cap)
    inner_width = width / own_width  # inner widths are already those of the yaml's own
    letter = result.get("scale") or "custom"
    result["scale"], result["scales"] = letter, {letter: [depth, width, cap]}
    for layers in (result["backbone"], result["head"]):
        for _from, _repeats, block, arguments in layers:
            for position in _INNER.get(block, ()):
                arguments[position] = _width(arguments[position], inner_width, cap)
    return result


def input_size(options: Mapping[str, Any], imgsz_px: int) -> int:
    """The input size that belongs to `options`, of a network that has `imgsz_px` without them."""
    grown = imgsz_px * COMPOUND["imgsz"] ** options.get("compound", 0)
    return imgsz_px if "compound" not in options else round(grown / _STRIDE) * _STRIDE


def section_layers(yaml: Mapping[str, Any]) -> dict[str, range]:
    """Indices of layers by section: backbone, neck, and the detecting layer as head."""
    backbone, head = len(yaml["backbone"]), len(yaml["head"])
    last = backbone + head - 1
    return {
        "backbone": range(backbone),
        "neck": range(backbone, last),
        "head": range(last, last + 1),
    }


def _scale(yaml: Mapping[str, Any]) -> tuple[float, float, int]:
    """Depth, width and the cap of channels that the yaml has."""
    if yaml.get("scales"):
        depth, width, cap = yaml["scales"][yaml["scale"]]
        return depth, width, cap
    return yaml.get("depth_multiple", 1.0), yaml.get("width_multiple", 1.0), _UNCAPPED


def _width(channels: int, width: float, cap: int) -> int:
    """As ultralytics scales a layer's channels: capped, multiplied, up to a multiple of 8."""
    return math.ceil(min(channels, cap) * width / _DIVISOR) * _DIVISOR


def refuse_bad(options: Mapping[str, Any]) -> None:
    """Raise ModelNotFound unless every option is one of OPTIONS with a number that it takes."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise ModelNotFound(f"option {name!r}: a yaml of ultralytics has {', '.join(OPTIONS)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not value > 0:
            raise ModelNotFound(f"option {name}: {value!r} is no number above 0")
        if name in ("num_classes", "max_channels") and not isinstance(value, int):
            raise ModelNotFound(f"option {name}: {value!r} is no whole number")
