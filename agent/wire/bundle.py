"""The agent's own files as one named thing: what the host deploys and the agent reports."""

from __future__ import annotations

import hashlib
from pathlib import Path

ENTRY_NAME = "__main__.py"
ENTRY_TEXT = "from agent.__main__ import main\n\nmain()\n"
"""A bundle directory is started as `python -I DIR`, which runs this file."""


def bundle_files(package_dir: Path) -> dict[str, bytes]:
    """Every source file of the package `agent` by its path within a bundle, sorted."""
    files = {
        f"{package_dir.name}/{path.relative_to(package_dir).as_posix()}": path.read_bytes()
        for path in sorted(package_dir.rglob("*.py"))
    }
    return dict(sorted(files.items()))


def bundle_digest(package_dir: Path) -> str:
    """Sha256 over path, size and bytes of each file, so equal digests mean equal agents."""
    digest = hashlib.sha256()
    for name, data in bundle_files(package_dir).items():
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()
