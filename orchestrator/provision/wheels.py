"""The wheels of a lock for one kind of board, fetched by pip on the host."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from orchestrator.errors import WheelsMissing
from orchestrator.provision.lock import Pin
from orchestrator.provision.target import Target, platform_tags

PIP_TIMEOUT_S: Final = 900
"""Some 45 MB over a slow line."""

Fetch = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
"""Runs pip with these words; the only door to a package index."""

_NO_NETWORK: Final = (
    "newconnectionerror", "name resolution", "name or service not known", "connection refused",
    "network is unreachable", "connecttimeout", "connection to ", "proxyerror", "sslerror",
)  # fmt: skip


def run_pip(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the pip of this interpreter; raises WheelsMissing when it takes too long."""
    try:
        return subprocess.run(
            [sys.executable, "-m", "pip", *words],
            capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            timeout=PIP_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise WheelsMissing(
            f"the wheels were not fetched within {PIP_TIMEOUT_S} s; try again, or fetch them "
            f"elsewhere and name their folder with --wheels"
        ) from exc


def download(
    target: Target,
    pins: Sequence[Pin],
    folder: Path,
    offline: Path | None = None,
    fetch: Fetch = run_pip,
) -> list[Path]:
    """The wheel of every pin for `target`, fetched into `folder`, or taken from `offline`.

    Raises WheelsMissing, never gives another version than the pinned one.
    """
    words = [*arguments(target), "--dest", str(folder), "--retries", "2", "--timeout", "30"]
    if offline is not None:
        words += ["--no-index", "--find-links", str(offline.absolute())]
    done = fetch(["download", *words, *map(str, pins)])
    if done.returncode != 0:
        raise _explained(done.stdout + done.stderr, target, offline)
    return chosen(folder.glob("*.whl"), pins, target)


def arguments(target: Target) -> list[str]:
    """What pip is told about the board; --no-deps because pip would judge them by this host."""
    words = ["--only-binary=:all:", "--no-deps", "--disable-pip-version-check", "--no-input"]
    words += ["--quiet", "--implementation", "cp", "--abi", target.python_tag]
    words += ["--python-version", "".join(map(str, target.python))]
    for tag in platform_tags(target.machine, target.glibc):
        words += ["--platform", tag]
    return words


def chosen(found: Iterable[Path], pins: Sequence[Pin], target: Target) -> list[Path]:
    """The file of every pin, in order; raises WheelsMissing unless each has one that fits."""
    usable = supported_tags(target)
    wheels = []
    for path in sorted(found):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except (InvalidWheelFilename, InvalidVersion) as exc:
            raise WheelsMissing(f"{path} is no wheel by its name: {exc}") from exc
        if tags & usable:
            wheels.append((str(name), version, path))
    files = []
    for pin in pins:
        fitting = [
            path
            for name, version, path in wheels
            if (name, version) == (pin.name, Version(pin.version))
        ]
        if len(fitting) != 1:
            raise WheelsMissing(f"{len(fitting)} wheels of {pin} for {target}; expected one")
        files += fitting
    return files


def supported_tags(target: Target) -> frozenset[Tag]:
    """Every tag that the board's Python can import from."""
    platforms = platform_tags(target.machine, target.glibc)
    own = cpython_tags(target.python, [target.python_tag], platforms)
    plain = compatible_tags(target.python, target.python_tag, platforms)
    return frozenset(own) | frozenset(plain)


def _explained(said: str, target: Target, offline: Path | None) -> WheelsMissing:
    """Pip's failure in words."""
    if "No module named pip" in said:
        return WheelsMissing(
            f"{sys.executable} has no pip, which fetches the wheels; add it with "
            f"`{sys.executable} -m ensurepip` (or `uv pip install pip`)"
        )
    missing = re.findall(r"No matching distribution found for (\S+)", said)
    unreachable = offline is None and any(sign in said.lower() for sign in _NO_NETWORK)
    if unreachable:
        return WheelsMissing(
            "the package index cannot be reached from this host; connect it to the internet for "
            "this one step, or fetch the wheels elsewhere and name their folder with --wheels "
            f"(pip download {shlex.join(arguments(target))} -r agent/requirements.lock)"
        )
    if missing:
        place = "the package index" if offline is None else str(offline)
        return WheelsMissing(
            f"{place} has no wheel of {', '.join(sorted(set(missing)))} for {target}; use "
            f"Raspberry Pi OS bookworm (Python 3.11) or trixie (3.13) on the board"
            + ("" if offline is None else ", or add the wheel to that folder")
        )
    return WheelsMissing(f"pip could not fetch the wheels for {target}: {said.strip()[-2000:]}")
