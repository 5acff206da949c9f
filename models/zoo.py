"""From a name or a path that a user typed to a ModelSpec.

Four kinds: `tinydet`, which is shipped; any `.onnx` file; networks of ours (models/nets) and
ultralytics names, `.pt` and `.yaml`, which need the extra `models`. Nothing here imports torch
or ultralytics.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.wire import ImagePrep
from models import describe
from models.errors import ExtraMissing, ModelNotFound, ModelUnreadable
from models.inputshapes import fix_shapes, nearest, refuse_other_size
from models.nets import options as net_options
from models.nets import ultra_yaml
from models.nets.registry import FAMILIES
from models.spec import ModelSource, ModelSpec, StepSpec, file_digest
from models.store import Artifact
from models.tensors import TensorInfo

SHIPPED = {"tinydet": Path(__file__).parent / "weights" / "tinydet.onnx"}

DEFAULT_IMGSZ_PX = 640
_CLASSIFY_IMGSZ_PX = 224
_EXTRA = ("torch", "torchvision", "ultralytics", "onnx", "onnxslim", "safetensors")
_EXTRA_COMMAND = "python -m pip install 'edge-orchestrator[models]' (in a checkout: '.[models]')"

_DETECTORS = (
    *(f"yolov8{size}" for size in "nsmlx"),
    *(f"yolo11{size}" for size in "nsmlx"),
    *(f"yolo12{size}" for size in "nsmlx"),
    *(f"yolo26{size}" for size in "nsmlx"),
    *(f"yolov9{size}" for size in "tsmce"),
    *(f"yolov10{size}" for size in "nsmblx"),
    *(f"yolov5{size}u" for size in "nsmlx"),
    *("yolov3u", "yolov3-sppu", "yolov3-tinyu"),
)
_OTHER_TASKS = tuple(
    f"{family}{size}-{task}"
    for family in ("yolov8", "yolo11", "yolo26")
    for size in "nsmlx"
    for task in ("seg", "cls", "pose", "obb")
)
_KNOWN = frozenset((*_DETECTORS, *_OTHER_TASKS))
_YAMLS = frozenset(name.removesuffix("u") for name in _KNOWN)
_OURS = tuple(family.name for family in FAMILIES.values() if not family.described)


def names() -> tuple[str, ...]:
    """Every name that `resolve` knows, the shipped ones first, then the networks of ours."""
    ours = (name for name in _OURS if name not in SHIPPED)
    return (*SHIPPED, *ours, *_DETECTORS, *_OTHER_TASKS)


def resolve(
    reference: str,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    imgsz: int | None = None,
    base_dir: Path | None = None,
    options: Mapping[str, Any] | None = None,
    weights: str | None = None,
    steps: Sequence[StepSpec] = (),
    need_extra: bool = True,
) -> ModelSpec:
    """The model that `reference` names: a name of `names()`, or a path.

    Relative paths are looked up in `base_dir`, then in the working directory. `shapes` fixes
    dynamic inputs by name; `imgsz` is the square input size in pixels of an export or of a
    dynamic image input. `options` are for networks of ours and ultralytics .yaml files (see
    models/nets/ultra_yaml.py), `weights` (a file) for ours alone; `steps` come before those of
    any recipe. Raises ModelNotFound with the nearest match, ModelUnreadable, ShapeNeeded with the
    option to type, ExtraMissing with the command to run.
    """
    given = dict(shapes or {})
    if reference in _OURS and (reference not in SHIPPED or options or weights or steps):
        found = None if weights is None else _find(weights, base_dir)
        if weights is not None and found is None:
            raise ModelNotFound(f"model {reference}: weights: {_missing(weights, base_dir)}")
        spec = _from_family(reference, dict(options or {}), imgsz, found)
    elif weights or (options and not reference.lower().endswith((".yaml", ".yml"))):
        raise ModelNotFound(
            f"model {reference}: `options` are for the networks {', '.join(_OURS)} and "
            "ultralytics .yaml files, `weights` for those networks"
        )
    else:
        if options:
            ultra_yaml.refuse_bad(options)
            imgsz = imgsz or ultra_yaml.input_size(options, DEFAULT_IMGSZ_PX)
        spec = _from_file(reference, given, imgsz, base_dir)
        if options:
            source = dataclasses.replace(spec.source, options=dict(options))
            spec = dataclasses.replace(spec, source=source)
    if need_extra:
        require_extra(spec)
    trains = any(step.name in _TRAINING for step in steps)
    note = spec.note if not trains or spec.trained else None
    return dataclasses.replace(spec, steps=tuple(steps), trained=spec.trained or trains, note=note)


_COMPOUND = "compound"
_TRAINING = ("train", "distill")
"""Steps after which random weights are no longer random."""


def _from_family(
    reference: str, options: dict[str, Any], imgsz: int | None, weights: Path | None
) -> ModelSpec:
    """A network of ours: its family tells its task, its artifact will tell head and classes."""
    family = FAMILIES[reference]
    known = (*family.options, *((_COMPOUND,) if "width" in family.options else ()))
    for name in options:
        if name not in known:
            near = nearest(name, known)
            raise ModelNotFound(
                f"model {reference}: no option {name!r}{near}; it has {', '.join(known) or 'none'}"
            )
    net_options.refuse_bad(family, options)
    scaled = _spelled_out({**family.options, **options})
    size_px = imgsz or ultra_yaml.input_size(options, family.imgsz_px)
    net_options.refuse_bad_size(reference, size_px, family.multiple_px)
    return ModelSpec(
        name=reference,
        source=ModelSource(
            "net",
            weights,
            reference,
            file_digest(weights) if weights else None,
            size_px,
            scaled,
        ),
        task=family.task,
        head=None,
        prep=ImagePrep(height=size_px, width=size_px),
        class_names=(),
        trained=weights is not None,
        note=None if weights else "untrained: random weights, so accuracy is not given",
    )


def _spelled_out(options: dict[str, Any]) -> dict[str, Any]:
    """Options with `compound` as the width that it means; raises ModelNotFound.

    Networks of ours have no depth to scale.
    """
    if _COMPOUND not in options:
        return options
    ultra_yaml.refuse_bad({name: options[name] for name in (_COMPOUND, "width")})
    width = options["width"] * ultra_yaml.COMPOUND["width"] ** options[_COMPOUND]
    return {name: value for name, value in options.items() if name != _COMPOUND} | {"width": width}


def _from_file(
    reference: str, given: dict[str, tuple[int, ...]], imgsz: int | None, base_dir: Path | None
) -> ModelSpec:
    """The shipped model, an ONNX file, or what ultralytics reads."""
    if reference in SHIPPED:
        return _from_onnx(SHIPPED[reference], reference, reference, given, imgsz)
    suffix = Path(reference).suffix.lower()
    found = _find(reference, base_dir)
    if suffix == ".onnx":
        if found is None:
            raise ModelNotFound(_missing(reference, base_dir))
        return _from_onnx(found, found.stem, reference, given, imgsz)
    if suffix in (".pt", ".yaml", ".yml") or _weights_name(reference) in _KNOWN:
        return _from_ultralytics(reference, suffix, found, imgsz, base_dir)
    if found is not None:
        raise ModelUnreadable(f"{found}: a model is an .onnx, .pt or .yaml file")
    raise ModelNotFound(_missing(reference, base_dir))


def describe_artifact(artifact: Artifact) -> describe.Description:
    """What a built artifact does, from its manifest alone."""
    manifest = artifact.manifest
    return describe.describe_io(manifest.inputs, manifest.outputs, manifest.metadata)


def complete(spec: ModelSpec, artifact: Artifact) -> ModelSpec:
    """The spec with what only a build could tell: task, head, letterbox and class names.

    For networks, which are unknown until they are exported; ONNX files come back as they are.
    """
    if spec.source.kind == "onnx":
        return spec
    found = describe_artifact(artifact)
    note = "; ".join(text for text in (spec.note, found.reason) if text) or None
    return dataclasses.replace(
        spec,
        task=found.task,
        head=found.head,
        prep=found.prep,
        class_names=found.class_names,
        note=note,
    )


def _from_onnx(
    path: Path,
    name: str,
    reference: str,
    shapes: Mapping[str, tuple[int, ...]],
    imgsz: int | None,
) -> ModelSpec:
    from models import onnxfile  # noqa: PLC0415 - onnx takes 0.3 s; names alone do not need it

    info = onnxfile.describe(path)
    size = (imgsz, imgsz) if imgsz else None
    fixed = fix_shapes(info.inputs, shapes, size or describe.image_size(info.metadata), str(path))
    if imgsz is not None:
        refuse_other_size(info.inputs, imgsz, str(path))
    inputs = {
        input_name: TensorInfo(tensor.dtype, fixed.get(input_name, tensor.shape))
        for input_name, tensor in info.inputs.items()
    }
    found = describe.describe_io(inputs, info.outputs, info.metadata)
    return ModelSpec(
        name=name,
        source=ModelSource("onnx", path, reference, onnxfile.source_digest(path, info)),
        task=found.task,
        head=found.head,
        prep=found.prep,
        class_names=found.class_names,
        shapes=fixed,
        note=found.reason,
    )


def _from_ultralytics(
    reference: str, suffix: str, found: Path | None, imgsz: int | None, base_dir: Path | None
) -> ModelSpec:
    untrained = suffix in (".yaml", ".yml")
    stem = Path(reference).stem if suffix else reference
    if not suffix:
        found = _find(f"{reference}.pt", base_dir)
    bare = Path(reference).parent == Path()
    if found is None and bare and not untrained and stem != _weights_name(stem):
        stem = _weights_name(stem)
        found = _find(f"{stem}.pt", base_dir)
    known = bare and stem in (_YAMLS if untrained else _KNOWN)
    if found is None and not known:
        raise ModelNotFound(_missing(reference, base_dir))
    file_name = found.name if found else f"{stem}{suffix or '.pt'}"
    notes = []
    if untrained:
        notes.append("untrained: random weights, so accuracy is not given")
    elif found is None:
        notes.append(f"trained weights {file_name}: ultralytics looks for them or downloads them")
    classify = stem.endswith("-cls")
    size_px = imgsz or (_CLASSIFY_IMGSZ_PX if classify else DEFAULT_IMGSZ_PX)
    if not classify:  # which take any size
        net_options.refuse_bad_size(reference, size_px, net_options.ultralytics_multiple(stem))
    return ModelSpec(
        # A .yaml keeps its ending: its figures must not pass for the trained model's.
        name=Path(reference).name if untrained else stem,
        source=ModelSource(
            "ultralytics", found, file_name, file_digest(found) if found else None, size_px
        ),
        task=None,
        head=None,
        prep=None if classify else ImagePrep(height=size_px, width=size_px),
        class_names=(),
        trained=not untrained,
        note="; ".join(notes) or None,
    )


def _weights_name(name: str) -> str:
    """The name of a network's trained weights: those of v3 and v5 end in u, as in ultralytics."""
    return f"{name}u" if f"{name}u" in _KNOWN else name


def require_extra(spec: ModelSpec) -> None:
    """Refuse early what cannot be built here; finding a package does not import it."""
    if spec.source.kind == "onnx":
        return
    reference = spec.source.reference
    absent = [package for package in _EXTRA if importlib.util.find_spec(package) is None]
    if absent:
        raise ExtraMissing(
            f"model {reference}: needs {', '.join(absent)}; install the extra `models`: "
            f"{_EXTRA_COMMAND}; or give an .onnx file"
        )


def _find(reference: str, base_dir: Path | None) -> Path | None:
    """The existing file that a path means, absolute; None where there is none.

    A link keeps its own name, which says what the user means and of which kind the file is.
    """
    path = Path(reference).expanduser()
    for folder in (base_dir, Path.cwd()):
        if folder is not None and (folder / path).is_file():
            found = folder / path
            return found.parent.resolve() / found.name
    return None


def _missing(reference: str, base_dir: Path | None) -> str:
    """Why a reference names nothing, with the nearest name or file."""
    path = Path(reference).expanduser()
    if not path.suffix and path.parent == Path():
        near = nearest(reference, names())
        return f"no model named {reference!r}{near}; known: tinydet, yolov8n, ..., or a path"
    folders = [folder / path.parent for folder in (base_dir, Path.cwd()) if folder is not None]
    files = [
        file.name
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix in (".onnx", ".pt", ".yaml")
    ]
    known = [f"{name}.pt" for name in _KNOWN] + [f"{name}.yaml" for name in _YAMLS]
    near = nearest(path.name, (*files, *known))
    searched = " and ".join(dict.fromkeys(str(folder) for folder in folders))
    return f"no model file {reference!r} (looked in {searched}){near}"
