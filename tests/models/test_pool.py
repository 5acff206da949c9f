"""Build processes: order, logs, deaths and Ctrl-C."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from support.buildwork import Fails, Notes

from models.build import VariantRequest
from models.pool import Job, run_jobs
from models.recipes import Recipe
from models.spec import ModelSource, ModelSpec

MODEL = ModelSpec("net", ModelSource("onnx", None, "net.onnx", "0" * 64), None, None, None, ())


def job(*chain: str) -> Job:
    """A job whose recipe is named by its chain."""
    name = "-".join(chain)
    return Job(chain, name, VariantRequest(MODEL, Recipe(name, (), ""), "x86_64"))


def test_results_and_logs_come_back() -> None:
    """Each job has its result by its chain, and its log lines arrive in this process."""
    jobs = [job("a"), job("b"), job("c")]
    lines: list[str] = []
    results = run_jobs(jobs, Fails(), 2, lines.append)
    assert {chain: str(result) for chain, result in results.items()} == {
        ("a",): "net/a for x86_64",
        ("b",): "net/b for x86_64",
        ("c",): "net/c for x86_64",
    }
    assert sorted(lines) == ["working on a", "working on b", "working on c"]


def test_a_dead_process_fails_its_own_job_only() -> None:
    """A build that is killed (as for memory) says so; the other jobs still have results."""
    jobs = [job("a"), job("b"), job("c")]
    lines: list[str] = []
    results = run_jobs(jobs, Fails(dies_at="b"), 2, lines.append)
    assert str(results["a",]) == "net/a for x86_64"
    assert str(results["c",]) == "net/c for x86_64"
    assert "b: the build process died" in str(results["b",])
    assert any("again, alone" in line for line in lines)


def test_a_job_waits_for_its_own_beginning(tmp_path: Path) -> None:
    """A chain that continues another starts after it; unrelated ones run side by side."""
    jobs = [job("a", "b"), job("x"), job("a")]
    run_jobs(jobs, Notes(tmp_path), 3, lambda _: None)
    times = {p.name: [float(t) for t in p.read_text().split()] for p in tmp_path.iterdir()}
    assert times["a-b"][0] >= times["a"][1]
    assert times["a"][2] != os.getpid()


def test_a_long_step_is_waited_for_outside(tmp_path: Path) -> None:
    """Of two chains that need one long step the second leaves its process to another job."""
    long = frozenset({("a", "train")})
    jobs = [
        dataclasses.replace(job("a", "train", "x"), long=long),
        dataclasses.replace(job("a", "train", "y"), long=long),
        job("b", "c", "z"),
    ]
    run_jobs(jobs, Notes(tmp_path), 2, lambda _: None)
    times = {p.name: [float(t) for t in p.read_text().split()] for p in tmp_path.iterdir()}
    assert times["a-train-y"][0] >= times["a-train-x"][1]
    assert times["b-c-z"][0] <= times["a-train-y"][0]


def test_one_worker_is_this_process(tmp_path: Path) -> None:
    """With one worker no process is started, and the order is by dependency still."""
    run_jobs([job("a", "b"), job("a")], Notes(tmp_path, 0.0), 1, lambda _: None)
    times = {p.name: [float(t) for t in p.read_text().split()] for p in tmp_path.iterdir()}
    assert times["a-b"][0] >= times["a"][1]
    assert {line[2] for line in times.values()} == {os.getpid()}


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.buildwork import Notes
from models.build import VariantRequest
from models.pool import Job, run_jobs
from models.recipes import Recipe
from models.spec import ModelSource, ModelSpec

def main():
    model = ModelSpec("net", ModelSource("onnx", None, "n", "0" * 64), None, None, None, ())
    jobs = [
        Job((n,), n, VariantRequest(model, Recipe(n, (), ""), "x86_64")) for n in ("a", "b")
    ]
    print("started", flush=True)
    try:
        run_jobs(jobs, Notes(Path({folder!r}), 60.0), 2, print)
    except KeyboardInterrupt:
        print("interrupted", flush=True)

if __name__ == "__main__":
    main()
"""


def started(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A program in the middle of two long builds, and its two build processes."""
    script = tmp_path / "program.py"
    tests = str(Path(__file__).parents[1])
    script.write_text(textwrap.dedent(PROGRAM).format(tests=tests, folder=str(tmp_path)))
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children = [
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        if len(children) == 2 and all(child.num_threads() > 1 for child in children):
            return process, children
        time.sleep(0.05)
    raise AssertionError("the build processes did not start")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_build_processes_end_with_their_parent(tmp_path: Path, ending: signal.Signals) -> None:
    """After Ctrl-C, and even after the parent is killed, no build process stays behind."""
    process, children = started(tmp_path)
    time.sleep(0.3)
    process.send_signal(ending)
    output, errors = process.communicate(timeout=20)
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert len(gone) == 2
    if ending == signal.SIGINT:
        assert "interrupted" in output
        assert "Traceback" not in errors
