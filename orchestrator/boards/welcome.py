"""What a board must bring before it may measure."""

from __future__ import annotations

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
            f"install agent/requirements.lock there, or set `python:` in the inventory to an "
            f"interpreter that has them"
        )
    return hello
