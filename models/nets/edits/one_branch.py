"""Edit `one_branch`: a head that was built with two branches keeps the one that gives its output.

For ultralytics' heads with a one-to-one branch beside the one-to-many (v10, 26), which the
networks here leave unused. Parameters: `modules` by name.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Take the other branch out; ultralytics knows which one it is."""
    for name in params["modules"]:
        head: Any = module.get_submodule(name)
        head.fuse()
