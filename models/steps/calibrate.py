"""Feeds calibration data to ONNX Runtime's quantizer, one file at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent import vision
from models.describe import prep_from_input
from models.errors import DataError
from models.spec import CalibrationSpec
from models.steps.base import Log
from models.tensors import TensorInfo, fits, show_shape

Feed = dict[str, NDArray[np.generic]]

_TENSOR_SUFFIXES = (".npy", ".npz")
_REPORTS = 5


class Reader:
    """What ONNX Runtime calls a CalibrationDataReader; it is recognised by its methods.

    Images go through `agent.vision.prepare`, as on the board. `.npy` holds the only input,
    `.npz` all inputs by name.
    """

    def __init__(self, spec: CalibrationSpec, inputs: Mapping[str, TensorInfo], log: Log) -> None:
        self._files = spec.images
        self._prep = spec.prep or prep_from_input(inputs)
        self._inputs = inputs
        self._log = log
        self._next = 0
        self._end = len(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read files [start_index, end_index) next."""
        self._next, self._end = start_index, min(end_index, len(self._files))

    def get_next(self) -> Feed | None:
        """The next input, None after the last; raises DataError naming a file that is no good."""
        if self._next >= self._end:
            return None
        file = self._files[self._next]
        feed = self._read(file)
        self._next += 1
        if self._next % max(1, len(self._files) // _REPORTS) == 0:
            self._log(f"calibrated with {self._next} of {len(self._files)}")
        return feed

    def _read(self, file: Path) -> Feed:
        if file.suffix.lower() in _TENSOR_SUFFIXES:
            feed = _tensors(file, self._inputs)
        else:
            feed = self._image(file)
        for name, tensor in self._inputs.items():
            _refuse_misfit(file, name, tensor, feed)
        return feed

    def _image(self, file: Path) -> Feed:
        if self._prep is None or len(self._inputs) != 1:
            inputs = ", ".join(f"{n} {show_shape(t.shape)}" for n, t in self._inputs.items())
            raise DataError(
                f"calibration: {file} is an image, but the model takes {inputs}; "
                "give .npy or .npz tensors"
            )
        return {next(iter(self._inputs)): vision.prepare(vision.read_image(file), self._prep)[0]}


def _tensors(file: Path, inputs: Mapping[str, TensorInfo]) -> Feed:
    """The tensors of a file by input name. Pickled objects are refused, never run."""
    several = file.suffix.lower() == ".npz"
    try:
        with file.open("rb") as handle:
            loaded = np.load(handle, allow_pickle=False)
            if several != isinstance(loaded, np.lib.npyio.NpzFile):
                kind = "one tensor" if several else "several tensors"
                raise ValueError(f"holds {kind}, which its ending does not say")
            if several:
                return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as exc:
        raise DataError(f"calibration: {file}: {exc}") from exc
    if len(inputs) != 1:
        raise DataError(
            f"calibration: {file} holds one tensor, but the model takes {', '.join(inputs)}; "
            "give .npz files with one tensor for each"
        )
    return {next(iter(inputs)): loaded}


def _refuse_misfit(file: Path, name: str, tensor: TensorInfo, feed: Feed) -> None:
    if name not in feed:
        raise DataError(f"calibration: {file}: no tensor for input {name!r}; it has {[*feed]}")
    array = feed[name]
    shape = tensor.shape
    if not fits(shape, array.shape) or array.dtype.name != tensor.dtype:
        raise DataError(
            f"calibration: {file}: input {name!r} takes {tensor.dtype} {show_shape(shape)}, "
            f"the file gives {array.dtype} {array.shape}"
        )
