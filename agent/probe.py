"""`agent probe`: can this Python run the agent? Needs nothing but a Python, of any age.

A package with native code is imported in a process of its own: one that was built for another
processor ends that process with a signal, which is then named instead of taking us along.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import platform
import signal
import struct
import subprocess
import sys

PACKAGES = {
    "msgspec": "msgspec",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "pillow": "PIL.Image",
    "psutil": "psutil",
    "rpyc": "rpyc",
}
"""The distributions that the agent imports itself, with a module that loads their native code."""

OPTIONAL = {"ai-edge-litert": "ai_edge_litert.interpreter", "torch": "torch"}
"""Further runtimes: where one is installed, it has to work as well."""

OLDEST_PYTHON = (3, 11)
_PERIOD_S = 240
_WORKERS = min(4, os.cpu_count() or 1)  # one core would share each import's time among all
_POINTER_BITS = 64

_IMPORT = """
import importlib, importlib.metadata, sys
importlib.import_module(sys.argv[2])
print("version=" + importlib.metadata.version(sys.argv[1]))
"""


def probe(
    packages: dict[str, str] = PACKAGES,
    python: str = sys.executable,
    optional: dict[str, str] = OPTIONAL,
) -> dict[str, object]:
    """What is there and what is missing: `packages` by name to version, `missing` to the reason.

    Of `optional` those count that are installed.
    """
    packages = {**packages, **{name: optional[name] for name in optional if installed(name)}}
    missing = _unfit(sys.version_info[:2], struct.calcsize("P") * 8)
    present = {}
    with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
        answers = pool.map(lambda item: try_import(item[0], item[1], python), packages.items())
        for name, (version, problem) in zip(packages, answers):  # noqa: B905 - strict= needs 3.10
            if version is None:
                missing[name] = problem
            else:
                present[name] = version
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "packages": present,
        "missing": missing,
    }


def installed(name: str) -> bool:
    """Whether a distribution is there, without importing it."""
    try:
        from importlib import metadata  # noqa: PLC0415 - Python 3.7 lacks it

        metadata.distribution(name)
    except ImportError:  # PackageNotFoundError is one
        return False
    return True


def try_import(name: str, module: str, python: str) -> tuple[str | None, str]:
    """(version, "") of a distribution that can be imported, else (None, why not)."""
    command = [python, "-I", "-c", _IMPORT, name, module]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PERIOD_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return None, f"its import did not end within {_PERIOD_S} s"
    if done.returncode < 0:
        return None, f"its import was ended by {signal_words(-done.returncode)}"
    found = [
        line for line in done.stdout.decode(errors="replace").splitlines() if "version=" in line
    ]
    if done.returncode == 0 and found:
        return found[-1].partition("=")[2], ""
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return None, words[-1] if words else f"its import ended with exit code {done.returncode}"


def signal_words(number: int) -> str:
    """A signal in words: number, name, and what it means where that is not obvious."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    meaning = ", illegal instruction on this CPU" if number == signal.SIGILL else ""
    return f"signal {number} ({name}{meaning})"


def _unfit(version: tuple[int, int], bits: int) -> dict[str, str]:
    """Reasons against the interpreter itself, by what is lacking."""
    found = {}
    if version < OLDEST_PYTHON:
        found["python"] = f"it is {version[0]}.{version[1]}, and the agent needs 3.11 or newer"
    if bits < _POINTER_BITS:
        found["64-bit userland"] = f"this Python has {bits} bits, and onnxruntime is made for 64"
    return found


def main() -> int:
    """Print the findings as one line of JSON; 0 when the agent can run."""
    findings = probe()
    sys.stdout.write(json.dumps(findings) + "\n")
    return 1 if findings["missing"] else 0
