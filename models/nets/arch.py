"""What a network is, without its weights: enough to build it again. Imports no torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import msgspec

from models.errors import ModelUnreadable

MAX_HEADER_BYTES: Final = 16 << 20
"""A header of this size names about a hundred thousand tensors."""
DESCRIPTION: Final = "network"
"""The key of our metadata; files of older versions have `arch` and `parameters` in its place."""
_LENGTH: Final = struct.Struct("<Q")


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of structure: `kind` as in `models.nets.registry.EDITS`."""

    kind: str
    params: dict[str, Any] = {}


class Arch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A family's network with its options, and what was done to its structure since, in order.

    `imgsz_px` is the height and width of its input. Widths that pruning changed need no edit:
    they follow from the weights' shapes.
    """

    family: str
    options: dict[str, Any] = {}
    imgsz_px: int
    class_names: tuple[str, ...]
    trained: bool = False
    edits: tuple[Edit, ...] = ()


class NetHeader(msgspec.Struct, frozen=True):
    """What a file of format `net` says of itself; `parameters` counts its trained numbers."""

    arch: Arch
    parameters: int
    weight_bytes: int


def read_header(path: Path) -> NetHeader:
    """The header of a file of format `net`: safetensors with our metadata.

    Raises ModelUnreadable. Layout: https://github.com/huggingface/safetensors#format
    """
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > MAX_HEADER_BYTES:
                raise ModelUnreadable(f"{path}: not a network: its header has {length} bytes")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__")
        offsets = [entry["data_offsets"] for entry in header.values()]
        if DESCRIPTION in metadata:
            metadata = json.loads(metadata[DESCRIPTION])
        else:
            metadata = metadata | {"arch": json.loads(metadata["arch"])}
        return NetHeader(
            arch=msgspec.convert(metadata["arch"], type=Arch),
            parameters=int(metadata["parameters"]),
            weight_bytes=sum(end - start for start, end in offsets),
        )
    except OSError as exc:
        raise ModelUnreadable(f"{path}: {exc.strerror or exc}") from exc
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelUnreadable(f"{path}: not a network of this software: {exc}") from exc


def metadata_of(arch: Arch, task: str) -> dict[str, str]:
    """A network's description in the words of ONNX metadata (models/describe.py)."""
    return {
        "task": task,
        "names": json.dumps(arch.class_names),
        "imgsz": str(arch.imgsz_px),
        "trained": str(int(arch.trained)),
    }
