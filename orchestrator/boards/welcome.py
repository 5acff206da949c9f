"""What a board must bring before it may measure."""

from __future__ import annotations

import json
from typing import Any

from agent import wire
from orchestrator.errors import PackagesMissing

REQUIRED = ("msgspec", "numpy", "onnxruntime", "pillow", "psutil", "rpyc")
"""The distributions of agent/requirements.lock that the agent imports itself."""


def require_packages(hello: wire.Hello, board: str) -> wire.Hello:
    """Pass the hello on; raises PackagesMissing naming every package the board lacks."""
    present = {name.lower() for name in hello.fingerprint.packages}
    missing = [name for name in REQUIRED if name not in present]
    if missing:
        raise PackagesMissing(
            f"{board}: Python {hello.fingerprint.python} on the board lacks {', '.join(missing)}; "
            f"`orchestrator boards provision {board}` puts them there (an interpreter that the "
            f"inventory names with `python:` is yours to equip, with agent/requirements.lock)"
        )
    return hello


def probe_report(stdout: str) -> dict[str, Any] | None:
    """The line of JSON that `agent probe` printed, after whatever a login script printed."""
    lines = [line[line.index("{") :] for line in stdout.splitlines() if "{" in line]
    try:
        report = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) else None
