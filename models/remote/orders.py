"""Requests as JSON for another machine: files go by digest, folders by the builder's own path."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from models.chain import VariantRequest
from models.errors import BuilderLost, BuilderUnfit
from models.spec import ModelSpec, TrainingSpec, file_digest

_FILE: Final = re.compile(r"file:([0-9a-f]{64})/([A-Za-z0-9_][A-Za-z0-9._+-]*)")
_CACHE: Final = "cache:"
_HERE: Final = Path(_CACHE)
_PROCEDURAL: Final = ("shapes", "blobs")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+-]")


@dataclass
class Order:
    """Requests for a builder, and the files that they name, by digest."""

    requests: list[Any]
    files: dict[str, Path] = field(default_factory=dict)


def write_order(requests: list[VariantRequest], paths: Mapping[str, str]) -> Order:
    """What is sent; `paths` says where the builder has this machine's folders.

    Raises BuilderUnfit for a folder of training images without an entry in `paths` and for models
    in several files, DataError for a file that cannot be read.
    """
    order = Order([])

    def encode(value: Any) -> Any:
        if value == _HERE:
            return _CACHE
        if not isinstance(value, Path):
            raise TypeError(f"{type(value).__name__} is not sent to builders")
        digest = file_digest(value)
        order.files[digest] = value
        name = _UNSAFE.sub("_", value.name).lstrip(".+-") or "file"
        return f"file:{digest}/{name}"

    for request in requests:
        for model in (request.model, *request.others.values()):
            _refuse_several_files(model)
        sent = dataclasses.replace(request, training=_training(request.training, paths))
        order.requests.append(msgspec.to_builtins(_with_cache(sent), enc_hook=encode))
    return order


def read_order(requests: list[Any], files: Path, data: Path) -> list[VariantRequest]:
    """The requests as a builder carries them out; raises BuilderLost for what none would send.

    `files` is where received files lie (see `place`), `data` where procedural sets are kept.
    """

    def decode(kind: type, value: Any) -> Any:
        if kind is not Path:
            raise ValueError(f"{kind.__name__} is not read from orders")
        if value == _CACHE:
            return data
        match = _FILE.fullmatch(str(value))
        if match is None:
            raise ValueError(f"{value!r} is no file of an order")
        return place(files, match[1], match[2])

    try:
        return [msgspec.convert(one, VariantRequest, dec_hook=decode) for one in requests]
    except msgspec.ValidationError as exc:
        raise BuilderLost(f"the order cannot be read: {exc}") from exc


def names_of(requests: list[Any]) -> dict[str, set[str]]:
    """The names under which each file of an order is wanted, by digest."""
    found: dict[str, set[str]] = {}
    for text in _texts(requests):
        match = _FILE.fullmatch(text)
        if match is not None:
            found.setdefault(match[1], set()).add(match[2])
    return found


def place(files: Path, digest: str, name: str) -> Path:
    """Where a received file lies. Its name is kept: tools read versions and scales from it."""
    return files / digest / name


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return []


def _refuse_several_files(model: ModelSpec) -> None:
    """Of a model with its weights in files beside it only the first would be sent."""
    source = model.source
    if source.kind == "onnx" and source.path and file_digest(source.path) != source.sha256:
        raise BuilderUnfit(
            f"{source.path}: a builder takes models of one file, and this one has its weights in "
            "others (or changed meanwhile); save it as one, or build it on this machine"
        )


def _training(spec: TrainingSpec | None, paths: Mapping[str, str]) -> TrainingSpec | None:
    """The same images where the builder has them."""
    if spec is None:
        return None
    replaced = {}
    for name in ("data", "val"):
        data = getattr(spec, name)
        if data is None or data.source in _PROCEDURAL:
            continue
        if data.source not in paths:
            raise BuilderUnfit(
                f"the builder does not know where it has {data.source}; copy the images there "
                f"and say where under the builder's `paths:` in the inventory"
            )
        replaced[name] = dataclasses.replace(data, source=paths[data.source])
    return dataclasses.replace(spec, **replaced)


def _with_cache(request: VariantRequest) -> VariantRequest:
    """The folder of procedural sets is each machine's own."""
    if request.training is None:
        return request
    training = dataclasses.replace(request.training, cache=_HERE)
    return dataclasses.replace(request, training=training)


class PlainPaths:
    """Paths as they are, for processes on the same machine."""

    @staticmethod
    def encode(value: Any) -> str:
        """For msgspec's `enc_hook`."""
        if not isinstance(value, Path):
            raise TypeError(type(value).__name__)
        return str(value)

    @staticmethod
    def decode(kind: type, value: Any) -> Path:
        """For msgspec's `dec_hook`."""
        if kind is not Path:
            raise TypeError(kind.__name__)
        return Path(value)
