"""Recipes: named, ordered steps with parameters, as YAML. Shipped ones lie beside this file.

description: What the recipe is for, in one sentence.
runtime: onnxruntime  # or torch, litert; what runs the result
steps:
  - step: int8_ptq
    exclude: [decode]
  - step: ort_format
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import msgspec
import yaml

from models.errors import RecipeError
from models.spec import StepSpec
from models.steps import RECIPE_STEPS
from models.store import Format

__all__ = ["Recipe", "Runtime", "StepSpec", "get", "make_recipe", "names", "parse_steps"]

Runtime = Literal["onnxruntime", "torch", "litert"]
RUNS: Final[dict[Runtime, tuple[Format, ...]]] = {
    "onnxruntime": ("onnx", "ort"),
    "torch": ("pt2",),
    "litert": ("tflite",),
}
"""What each runtime runs; a network is exported to the first."""

_FOLDER = Path(__file__).parent
_FIELDS = ("description", "runtime", "steps")


@dataclass(frozen=True)
class Recipe:
    """Ordered steps under a name; no steps means the model as it is (`fp32`)."""

    name: str
    steps: tuple[StepSpec, ...]
    description: str
    runtime: Runtime = "onnxruntime"

    @property
    def needs_calibration(self) -> bool:
        """True when a step needs calibration data."""
        return any(RECIPE_STEPS[step.name].needs_calibration for step in self.steps)


def names() -> tuple[str, ...]:
    """The shipped recipes, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def get(name_or_path: str, base_dir: Path | None = None) -> Recipe:
    """A shipped recipe by name, or one from a YAML file.

    A relative path is looked up in `base_dir`, then in the working directory. Raises
    RecipeError naming file, field, what was expected and the nearest match.
    """
    if name_or_path in names():
        return _read(_FOLDER / f"{name_or_path}.yaml")
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml") and path.parent == Path():
        raise RecipeError(
            f"no recipe named {name_or_path!r}{_near(name_or_path, names())}; "
            f"known: {', '.join(names())}, or a path to a YAML file"
        )
    for folder in (base_dir, Path.cwd()):
        if folder is not None and (folder / path).is_file():
            return _read(folder / path)
    raise RecipeError(f"no recipe file {name_or_path!r}")


def _read(path: Path) -> Recipe:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as exc:
        raise RecipeError(f"{path}: {exc}") from exc
    except yaml.YAMLError as exc:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected fields description and steps, got {content!r}")
    _refuse_unknown(content, _FIELDS, str(path), "field")
    description = content.get("description", "")
    if not isinstance(description, str):
        raise RecipeError(f"{path}: description: expected text, got {description!r}")
    runtime = content.get("runtime", "onnxruntime")
    if runtime not in get_args(Runtime):
        known = get_args(Runtime)
        near = _near(str(runtime), known)
        raise RecipeError(f"{path}: runtime: no runtime {runtime!r}{near}; known: {known}")
    steps = content.get("steps")
    return make_recipe(path.stem, steps, description, cast(Runtime, runtime), str(path))


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def make_recipe(name: str, steps: object, description: str, runtime: Runtime, where: str) -> Recipe:
    """A recipe from its parts as YAML gives them; `where` is for messages. Raises RecipeError."""
    parsed = parse_steps(steps, where)
    _refuse_broken_chain(parsed, runtime, where)
    return Recipe(name, parsed, description.strip(), runtime)


def parse_steps(entries: object, where: str) -> tuple[StepSpec, ...]:
    """Steps as a recipe or a model of an experiment lists them; raises RecipeError."""
    if not isinstance(entries, list | tuple):
        raise RecipeError(f"{where}: steps: expected a list (empty for none), got {entries!r}")
    return tuple(_step(entry, f"{where}: steps[{i}]") for i, entry in enumerate(entries))


def _step(entry: object, where: str) -> StepSpec:
    """One entry of `steps`, its parameters checked and completed."""
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), str):
        raise RecipeError(
            f"{where}: expected `step:` with one of {', '.join(RECIPE_STEPS)}, got {entry!r}"
        )
    name = entry["step"]
    if name not in RECIPE_STEPS:
        raise RecipeError(
            f"{where}.step: no step named {name!r}{_near(name, tuple(RECIPE_STEPS))}; "
            f"known: {', '.join(RECIPE_STEPS)}"
        )
    params = {key: value for key, value in entry.items() if key != "step"}
    kind = RECIPE_STEPS[name].params
    _refuse_unknown(params, kind.__struct_fields__, where, f"parameter of {name}")
    try:
        complete = msgspec.convert(params, kind)
    except msgspec.ValidationError as exc:
        raise RecipeError(f"{where}: {exc}") from exc
    for key, value in params.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{where}: {key}: expected a finite number, got {value}")
    return StepSpec(name, msgspec.json.decode(msgspec.json.encode(complete)))


def _refuse_broken_chain(steps: Sequence[StepSpec], runtime: Runtime, where: str) -> None:
    """Each step takes what the one before it makes; a network is exported where ONNX is taken.

    The first step decides whether the model is taken as a network or as an ONNX file.
    """
    made, maker = None, "the model"
    for index, spec in enumerate(steps):
        step = RECIPE_STEPS[spec.name]
        if made is not None and step.accepts != made and (made, step.accepts) != ("net", "onnx"):
            raise RecipeError(
                f"{where}: steps[{index}]: {spec.name} takes {_A[step.accepts]}, but {maker} "
                f"before it makes {_A[made]}; change the order"
            )
        made, maker = step.makes, spec.name
    if made not in (None, "net", *RUNS[runtime]):
        raise RecipeError(
            f"{where}: runtime: {runtime} does not run {_A[made]}, which {maker} makes; it runs "
            f"{' or '.join(RUNS[runtime])}"
        )


_A: Final[dict[Format | None, str]] = {
    None: "nothing",
    "net": "a network",
    "onnx": "an onnx file",
    "ort": "an ort file",
    "pt2": "a pt2 file",
    "tflite": "a tflite file",
}


def _refuse_unknown(given: dict[Any, Any], known: Sequence[str], where: str, what: str) -> None:
    for key in given:
        if key not in known:
            expected = ", ".join(known) or "none"
            raise RecipeError(
                f"{where}: unknown {what} {key!r}{_near(str(key), known)}; expected: {expected}"
            )


def _near(word: str, choices: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
