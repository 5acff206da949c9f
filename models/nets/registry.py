"""The networks that can be built, and the changes that can be made to their structure.

Tables of names only: importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Task = Literal["detect", "segment"]


@dataclass(frozen=True)
class Family:
    """A kind of network.

    `module` has `build(arch) -> nn.Module` and `sections(arch) -> dict[str, tuple[str, ...]]`,
    the beginnings of module names by section. `options` are those it knows, with their defaults.
    """

    name: str
    module: str
    task: Task
    imgsz_px: int
    options: Mapping[str, Any] = field(default_factory=dict)


FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family
    for family in (Family("tinydet", "models.nets.tinydet", "detect", 160, {"num_classes": 6}),)
}

EDITS: Final[Mapping[str, str]] = {}
"""Kind of edit -> the module that has `apply(module: nn.Module, params: dict) -> None`."""
