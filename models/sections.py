"""Sections of a network, such as backbone, neck and head, and which nodes belong to which.

An export of this software writes them into the file (metadata `sections`, JSON: section ->
patterns of node names). Other files are recognised by the names of their nodes.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import onnx

Patterns = Mapping[str, tuple[str, ...]]
"""Shell-style patterns of node names by section, in the network's order."""

_ULTRALYTICS: Final = {
    ("v3", 20): 13,
    ("v3", 28): 11,
    ("v5", 24): 10,
    ("v8", 22): 10,
    ("v9", 22): 10,
    ("v9", 42): 30,
    ("v10", 23): 11,
    ("11", 23): 11,
    ("12", 21): 9,
    ("26", 23): 11,
}
"""(family, number of the head's module) -> modules of the backbone, by ultralytics' own YAMLs."""

_LAYOUTS: Final[tuple[Patterns, ...]] = (
    {
        "backbone": ("/stem/*", "/stage*"),
        "neck": ("/lateral*", "/merge*"),
        "head": ("/heads.*",),
    },
    {
        "backbone": ("/backbone/*", "/backbone.*"),
        "neck": ("/neck/*", "/neck.*"),
        "head": ("/head/*", "/head.*", "/heads/*", "/heads.*"),
    },
    {
        "encoder": ("/encoder/*", "/encoder.*"),
        "bottleneck": ("/bottleneck/*", "/bottleneck.*"),
        "decoder": ("/decoder/*", "/decoder.*"),
    },
)
"""Names of modules that say their section themselves; the first is the shipped detector's."""


def node_sections(model: onnx.ModelProto) -> dict[str, str]:
    """The section of each node by its name; empty where no sections are known.

    A node that no pattern names (an addition between two modules) belongs to the latest section
    that it reads from.
    """
    patterns = section_patterns(model)
    order = {section: index for index, section in enumerate(patterns)}
    found: dict[str, str] = {}
    made: dict[str, str] = {}  # tensor -> the section that it comes from
    for node in model.graph.node:
        section = _named(node.name, patterns)
        if section is None:
            read = [made[name] for name in node.input if name in made]
            section = max(read, key=lambda name: order[name], default=None)
        if section is not None:
            found[node.name] = section
            made.update(dict.fromkeys(node.output, section))
    return found


def section_patterns(model: onnx.ModelProto) -> Patterns:
    """What the file says of its sections, or what the names of its nodes tell; may be empty."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    written = _written(metadata.get("sections", ""))
    if written:
        return written
    names = [node.name for node in model.graph.node]
    exported = _ultralytics(names, metadata.get("description", ""))
    if exported:
        return exported
    for layout in _LAYOUTS:
        if all(any(_matches(name, patterns) for name in names) for patterns in layout.values()):
            return layout
    return {}


def ultralytics_patterns(backbone: int, head: int) -> dict[str, list[str]]:
    """Patterns for an ultralytics model: modules 0..backbone-1, up to the head's, and the head."""
    return {
        "backbone": [f"/model.{index}/*" for index in range(backbone)],
        "neck": [f"/model.{index}/*" for index in range(backbone, head)],
        "head": [f"/model.{head}/*"],
    }


def _named(name: str, patterns: Patterns) -> str | None:
    return next((key for key, known in patterns.items() if _matches(name, known)), None)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _written(text: str) -> Patterns:
    """The metadata's `sections`; empty where it is absent or not what it should be."""
    try:
        value: Any = json.loads(text)
        return {str(key): tuple(str(pattern) for pattern in known) for key, known in value.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _ultralytics(names: list[str], description: str) -> Patterns:
    """Sections of an export that ultralytics itself made; it names its family and its modules."""
    family = re.search(r"YOLO(v?\d+)", description)
    modules = [int(found[1]) for name in names if (found := re.match(r"/model\.(\d+)/", name))]
    if family is None or not modules:
        return {}
    head = max(modules)
    backbone = _ULTRALYTICS.get((family[1], head))
    if backbone is None:
        return {}
    return {key: tuple(known) for key, known in ultralytics_patterns(backbone, head).items()}
