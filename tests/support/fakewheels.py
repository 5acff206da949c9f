"""Tiny wheels under the names of real packages: what is tested is the way that they travel."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.provision.lock import Pin

MODULES = {"pillow": "PIL/Image.py", "typing-extensions": "typing_extensions.py"}


def module_of(pin: Pin) -> str:
    """The file that makes a distribution importable, as the agent's probe imports it."""
    return MODULES.get(pin.name, f"{pin.name.replace('-', '_')}/__init__.py")


def make_wheel(
    folder: Path,
    pin: Pin,
    tag: str = "py3-none-any",
    *,
    source: str = "",
    extra: Mapping[str, bytes] | None = None,
    records: bool = True,
) -> Path:
    """A wheel whose one module holds `source`, with more files on request."""
    stem = f"{pin.name.replace('-', '_')}-{pin.version}"
    info = f"{stem}.dist-info"
    files = {
        module_of(pin): source.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {pin.name}\nVersion: {pin.version}\n"
        .encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        **(extra or {}),
    }  # fmt: skip
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in files.items())
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if records:
            archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def make_wheels(
    folder: Path, pins: Sequence[Pin], sources: Mapping[str, str] | None = None, **extra: bytes
) -> Path:
    """A folder with a wheel for every pin; `sources` by distribution, `extra` files for numpy."""
    folder.mkdir(parents=True, exist_ok=True)
    for pin in pins:
        more = {f"numpy/{name}": data for name, data in extra.items()}
        make_wheel(
            folder,
            pin,
            source=(sources or {}).get(pin.name, ""),
            extra=more if pin.name == "numpy" else None,
        )
    return folder


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={digest}"
