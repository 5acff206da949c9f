"""What shape each input of an ONNX file gets: its own, the user's, or that of its images."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from models import describe
from models.errors import ShapeNeeded
from models.tensors import Shape, TensorInfo, fits, show_shape

_EXAMPLE_SIDE_PX = 224


def fix_shapes(
    inputs: Mapping[str, TensorInfo],
    shapes: Mapping[str, tuple[int, ...]],
    image_size: tuple[int, int] | None,
    where: str,
) -> dict[str, tuple[int, ...]]:
    """A full shape for each dynamic input; static inputs are left out.

    An image input may take (height, width) from `image_size`; any other dynamic input needs
    an entry in `shapes`. Raises ShapeNeeded naming the input, its dimensions and the option.
    """
    for name in shapes:
        if name not in inputs:
            near = nearest(name, tuple(inputs))
            raise ShapeNeeded(
                f"{where}: --shape {name}=...: no such input; it has {', '.join(inputs)}{near}"
            )
    fixed: dict[str, tuple[int, ...]] = {}
    for name, tensor in inputs.items():
        if name in shapes:
            _refuse_misfit(name, tensor.shape, shapes[name], where)
        if tensor.fixed:
            continue
        if name in shapes:
            fixed[name] = shapes[name]
        elif image_size and tensor.shape is not None and describe.is_image(tensor.shape):
            shape = (1, 3, *image_size)
            _refuse_misfit(name, tensor.shape, shape, where)
            fixed[name] = shape
        else:
            raise ShapeNeeded(
                f"{where}: input {name!r} has dynamic dimensions "
                f"{show_shape(tensor.shape)}; add --shape {_example(name, tensor.shape)}"
            )
    return fixed


def _refuse_misfit(name: str, shape: Shape | None, given: tuple[int, ...], where: str) -> None:
    if not fits(shape, given) or any(n < 1 for n in given):
        raise ShapeNeeded(
            f"{where}: --shape {name}={','.join(map(str, given))} does not fit the input's "
            f"{show_shape(shape)}; for example --shape {_example(name, shape)}"
        )


def refuse_other_size(inputs: Mapping[str, TensorInfo], imgsz: int, where: str) -> None:
    """Raises ShapeNeeded where an image input has another fixed size than the one asked for."""
    for name, tensor in inputs.items():
        shape = tensor.shape
        if shape is not None and describe.is_image(shape) and tensor.fixed:
            if shape[2:] == (imgsz, imgsz):
                continue
            raise ShapeNeeded(
                f"{where}: input {name!r} is fixed at {show_shape(shape)}, so imgsz "
                f"{imgsz} cannot be used; export the model again at that size"
            )


def _example(name: str, shape: Shape | None) -> str:
    """`NAME=1,3,224,224`, with the known dimensions of the input kept."""
    rank4 = (1, 3, _EXAMPLE_SIDE_PX, _EXAMPLE_SIDE_PX)
    dims = shape if shape is not None else rank4
    guess = rank4 if len(dims) == len(rank4) else (1,) * len(dims)
    values = [dim if isinstance(dim, int) else n for dim, n in zip(dims, guess, strict=True)]
    return f"{name}={','.join(map(str, values))}"


def nearest(word: str, choices: Sequence[str]) -> str:
    """`; did you mean X?`, or nothing where no choice is close."""
    matches = difflib.get_close_matches(word.lower(), choices, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
