import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent import probe
from agent.home import own_command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of made-up packages, and a Python that finds them."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def add(name, body, version="1.2.3"):
        (tmp_path / f"{name}.py").write_text(body)
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return probe.try_import(name, name, str(python))

    return add


def test_everything_is_here():
    """Where the agent can run, every package is listed with its version and none is missing."""
    done = subprocess.run([*own_command(), "probe"], capture_output=True, text=True, check=True)
    findings = json.loads(done.stdout.splitlines()[-1])
    assert findings["missing"] == {}
    assert findings["packages"].keys() - probe.OPTIONAL.keys() == probe.PACKAGES.keys()
    assert findings["python"].startswith("3.")


def test_nothing_is_here():
    """A Python without a single package is told what it lacks, instead of failing to start."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         f"import sys; sys.path.insert(0, {str(ROOT)!r}); from agent import probe\n"
         "probe.try_import = lambda name, module, python: (None, 'not here')\n"
         "sys.argv = ['agent', 'probe']; from agent.__main__ import main; main()"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    missing = json.loads(done.stdout)["missing"]
    assert {name: missing[name] for name in probe.PACKAGES} == dict.fromkeys(
        probe.PACKAGES, "not here"
    )


def test_version(packages):
    """The version is the distribution's own, whatever the module prints."""
    assert packages("talkative", "print('version=9')") == ("1.2.3", "")


def test_not_installed(packages):
    """A package that is not installed is named in Python's words."""
    version, problem = probe.try_import("absent_package", "absent_package", sys.executable)
    assert version is None
    assert "No module named 'absent_package'" in problem


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGILL, "signal 4 (SIGILL, illegal instruction on this CPU)"),
        (signal.SIGSEGV, "signal 11 (SIGSEGV)"),
        (signal.SIGKILL, "signal 9 (SIGKILL)"),
    ],
)
def test_import_that_kills(packages, number, words):
    """A package whose import ends the process is named with the signal, and the probe goes on."""
    version, problem = packages("deadly", f"import os; os.kill(os.getpid(), {int(number)})")
    assert version is None
    assert words in problem


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ImportError('libfoo.so.1: cannot open shared object')", "libfoo.so.1"),
        ("import os; os._exit(7)", "exit code 7"),
    ],
)
def test_import_that_fails(packages, body, words):
    """A package that is there but cannot be imported is missing, with its own reason."""
    version, problem = packages("broken", body)
    assert version is None
    assert words in problem


def test_import_that_hangs(packages, monkeypatch):
    """An import that never ends is given up."""
    monkeypatch.setattr(probe, "_PERIOD_S", 0.5)
    assert "did not end" in packages("endless", "import time; time.sleep(60)")[1]


@pytest.mark.parametrize(
    ("version", "bits", "missing"),
    [
        ((3, 11), 64, set()),
        ((3, 13), 64, set()),
        ((3, 9), 64, {"python"}),
        ((3, 11), 32, {"64-bit userland"}),
        ((3, 7), 32, {"python", "64-bit userland"}),
    ],
)
def test_unfit_interpreter(version, bits, missing):
    """An old Python and a 32-bit one are named as what they are."""
    assert probe._unfit(version, bits).keys() == missing


def test_unknown_signal():
    """A signal that Python has no name for is still a number."""
    assert probe.signal_words(250) == "signal 250 (unknown)"


def test_own_files_cannot_get_in_the_way(tmp_path):
    """An `agent.py` or `json.py` in the account's directory, or in PYTHONPATH, changes nothing."""
    for name in ("agent.py", "json.py", "argparse.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')")
    done = subprocess.run(
        [*own_command(), "probe"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
