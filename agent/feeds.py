"""What a model is fed: real images or seeded synthetic tensors, checked against its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from agent.artifacts import require_intact
from agent.errors import Refused
from agent.runtimes.base import Feed, InputSpec
from agent.vision import Geometry, ImageError, prepare, read_image
from agent.wire import FailureKind, ImagePrep, ImageRef, Inputs

MAX_TIMED_IMAGES: Final = 8
"""Images that the timed loop cycles through; prepared ones stay in memory all the time."""

MAX_TIMED_BYTES: Final = 64 << 20
"""Memory for them; at least one image is used whatever its size."""

MAX_SYNTHETIC_BYTES: Final = 1 << 30
"""Largest synthetic input: a typing error in a shape must not swap a board to death."""

_IMAGE_DTYPES: Final = ("float32", "float16")
_INTEGERS_BELOW: Final = 2
"""Synthetic integers are 0 or 1, which are valid as indices and masks alike."""


def timed_feeds(inputs: Sequence[InputSpec], wanted: Inputs, artifacts: Path) -> list[Feed]:
    """The feeds that the timed loop cycles through; one where they are synthetic.

    Of more than MAX_TIMED_IMAGES images the first ones are taken. Raises Refused (bad_request,
    bad_image, missing_artifact).
    """
    if not wanted.images:
        return [synthetic_feed(inputs, wanted)]
    if wanted.prep is None:
        _refuse("inputs.prep is missing: images need to know the model's input size")
    spec = image_input(inputs, wanted.prep)
    one_bytes = 3 * wanted.prep.height * wanted.prep.width * np.dtype(spec.dtype).itemsize
    count = min(MAX_TIMED_IMAGES, max(1, MAX_TIMED_BYTES // one_bytes))
    return [image_feed(spec, image, wanted.prep, artifacts)[0] for image in wanted.images[:count]]


def image_input(inputs: Sequence[InputSpec], prep: ImagePrep) -> InputSpec:
    """The model's one input, which takes a prepared image; raises Refused (bad_request)."""
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        _refuse(f"images go into a model of one input; this one has {len(inputs)}: {names}")
    (spec,) = inputs
    if spec.dtype not in _IMAGE_DTYPES:
        _refuse(f"input '{spec.name}' is {spec.declared}; prepared images are float32 or float16")
    _fit(spec, (1, 3, prep.height, prep.width))
    return spec


def image_feed(
    spec: InputSpec, image: ImageRef, prep: ImagePrep, artifacts: Path
) -> tuple[Feed, Geometry]:
    """One image as a feed; raises Refused (bad_image, missing_artifact, digest_mismatch)."""
    path = artifacts / image.sha256
    if not path.is_file():
        raise Refused(
            FailureKind.MISSING_ARTIFACT,
            f"image {image.image_id} ({image.sha256}) is not on the board; push it first",
        )
    require_intact(path)
    try:
        tensor, geometry = prepare(read_image(path), prep)
    except ImageError as exc:
        raise Refused(FailureKind.BAD_IMAGE, f"image {image.image_id}: {exc}") from exc
    return {spec.name: tensor.astype(spec.dtype, copy=False)}, geometry


def synthetic_feed(inputs: Sequence[InputSpec], wanted: Inputs) -> Feed:
    """Seeded arrays of each input's type and shape: floats in 0..1, integers 0 or 1.

    `wanted.shapes` gives the shapes of inputs with dynamic dimensions. Raises Refused
    (bad_request) naming the input.
    """
    unknown = wanted.shapes.keys() - {spec.name for spec in inputs}
    if unknown:
        names = ", ".join(spec.name for spec in inputs)
        _refuse(f"inputs.shapes has {', '.join(sorted(unknown))}; the model's inputs are {names}")
    random = np.random.default_rng(wanted.seed)
    return {spec.name: _synthetic(spec, wanted.shapes.get(spec.name), random) for spec in inputs}


def _synthetic(
    spec: InputSpec, wanted: tuple[int, ...] | None, random: np.random.Generator
) -> NDArray[Any]:
    if spec.dtype is None:
        _refuse(f"input '{spec.name}' is {spec.declared}; only tensors of numbers can be made up")
    shape = _fit(spec, wanted) if wanted is not None else _static_shape(spec)
    dtype = np.dtype(spec.dtype)
    size_bytes = math.prod(shape) * dtype.itemsize
    if size_bytes > MAX_SYNTHETIC_BYTES:
        _refuse(f"input '{spec.name}' of shape {shape} would have {size_bytes:,} bytes")
    if dtype.kind == "f":
        return random.random(shape, dtype=np.float32).astype(dtype, copy=False)
    return random.integers(0, _INTEGERS_BELOW, shape).astype(dtype)


def _static_shape(spec: InputSpec) -> tuple[int, ...]:
    shape = tuple(n for n in spec.shape if n is not None)
    if len(shape) != len(spec.shape):
        dims = ", ".join("?" if n is None else str(n) for n in spec.shape)
        _refuse(f"input '{spec.name}' has a dynamic shape ({dims}); give it in inputs.shapes")
    return shape


def _fit(spec: InputSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape itself, when the input takes it."""
    fits = len(shape) == len(spec.shape) and all(
        given > 0 and declared in (None, given)
        for given, declared in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        dims = ", ".join("?" if n is None else str(n) for n in spec.shape)
        _refuse(f"input '{spec.name}' has the shape ({dims}); {shape} does not fit it")
    return shape


def _refuse(message: str) -> NoReturn:
    raise Refused(FailureKind.BAD_REQUEST, message)
