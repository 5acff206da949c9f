"""What goes wrong on a desk: each has a clear error, a stable exit code, and loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.cli import Desk, desk, table
from support.onnxmodels import tiny_model

pytestmark = pytest.mark.slow

TINY = ("--model", "tiny.onnx")
LONG_PROFILE = """
models: [tiny.onnx]
recipes: [fp32]
blocks: {blocks}
profile:
  min_samples: 8
  min_duration_s: {seconds}
  max_duration_s: 60
  warmup_min_samples: 1
  warmup_min_duration_s: 0
cooldown: null
"""
LEASE_S = 15
SHORT_LEASES = f"""
from orchestrator import cli, execute
object.__setattr__(execute.PATIENCE, "lease_ttl_s", {LEASE_S}.0)
raise SystemExit(cli.main())
"""
"""The command, with leases that end sooner."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        tiny_model(tmp_path / "tiny.onnx")
        yield made


def experiment(place: Desk, *, blocks: int, seconds: float) -> str:
    (place.root / "long.yaml").write_text(LONG_PROFILE.format(blocks=blocks, seconds=seconds))
    return "long.yaml"


def begin(place: Desk, *, blocks: int, seconds: float) -> subprocess.Popen[str]:
    """A run of that many trials of that many seconds."""
    name = experiment(place, blocks=blocks, seconds=seconds)
    return place.start("run", name, "--boards", "here", "--plain")


def states(place: Desk) -> list[tuple[str, int]]:
    rows = place.rows("SELECT state, attempt FROM trials ORDER BY trial_no")
    return [(row["state"], row["attempt"]) for row in rows]


def test_interrupt_keeps_what_was_measured(place: Desk) -> None:
    """Ctrl-C stores finished trials and the running one, says so with 130, and frees the board."""
    process = begin(place, blocks=9, seconds=2)
    place.await_rows("SELECT 1 FROM trials WHERE state = 'finished'")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert ("finished", 1) in states(place)
    assert [row["state"] for row in place.rows("SELECT state FROM runs")] == ["interrupted"]
    again = place.run("run", experiment(place, blocks=1, seconds=0.1), "--boards", "here", "--json")
    assert again.returncode == 0, again.stderr


def test_leased_board(place: Desk) -> None:
    """A second run on a board that is being measured is refused and told whose it is."""
    first = begin(place, blocks=3, seconds=5)
    place.await_process("worker")
    second = place.run("run", "long.yaml", "--boards", "here", "--plain")
    assert second.returncode == 36, second.stderr
    assert "@" in second.stderr
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)


def test_agent_dies(place: Desk) -> None:
    """A trial cut by the agent's death is stored with what it had, and measured again."""
    process = begin(place, blocks=1, seconds=4)
    worker = place.await_process("worker")
    time.sleep(1.5)
    place.await_process("serve").kill()
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert states(place) == [("interrupted", 1), ("finished", 2)]
    assert not worker.is_running()
    (kept,) = place.rows(
        "SELECT COUNT(*) AS n FROM samples JOIN trials USING (trial_no) WHERE state = 'interrupted'"
    )
    assert kept["n"] > 0


def test_worker_is_killed(place: Desk) -> None:
    """A killed worker ends its trial with the signal's name; the samples before it are kept."""
    process = begin(place, blocks=2, seconds=4)
    place.await_process("worker")
    time.sleep(1.5)
    place.await_process("worker").kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 52, err
    assert "SIGKILL" in err or "signal 9" in err
    assert ("failed", 1) in states(place)
    (kept,) = place.rows("SELECT COUNT(*) AS n FROM samples")
    assert kept["n"] > 0


def test_host_is_killed(place: Desk) -> None:
    """When the host dies, the next run is told whose lease is left and when it ends."""
    process = begin(place, blocks=1, seconds=1)
    place.await_process("worker")
    process.kill()
    process.communicate()
    time.sleep(3)
    again = place.run("run", "long.yaml", "--boards", "here", "--plain")
    assert again.returncode == 36, again.stderr
    assert "the lease ends in" in again.stderr


def test_a_killed_hosts_lease_needs_nobody(place: Desk) -> None:
    """When the host dies for good, another run has the board after a while, without a command."""
    name = experiment(place, blocks=1, seconds=1)
    process = subprocess.Popen(
        [sys.executable, "-c", SHORT_LEASES, "run", name, "--boards", "here", "--plain"],
        cwd=place.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    place.started.append(process)
    (run,) = place.await_rows("SELECT run_id FROM runs")
    worker = place.await_process("worker")
    process.kill()
    process.communicate()
    held = place.run("run", name, "--boards", "here", "--plain")
    assert held.returncode == 36, held.stderr
    assert run["run_id"] in held.stderr
    worker.wait(60)
    time.sleep(LEASE_S + 1)
    other = place.run("run", name, "--boards", "here", "--plain")
    assert other.returncode == 0, other.stderr
    done = place.rows("SELECT DISTINCT run_id FROM trials WHERE state = 'finished'")
    assert [row["run_id"] == run["run_id"] for row in done] == [False]


def test_model_that_the_board_refuses(place: Desk) -> None:
    """A model whose operator the runtime lacks fails with its own code, and fp32 of it is named."""
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], domain="nobody.knows")
    graph = helper.make_graph(
        [node],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.knows", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), place.root / "odd.onnx")
    result = place.run("run", "--boards", "here", "--model", "odd.onnx", "--profile", "smoke")
    assert result.returncode == 39, result.stderr
    assert "NoSuchOperator" in result.stderr


def test_dynamic_model_needs_a_shape(place: Desk) -> None:
    """A dynamic input is refused with the option to type, and measured once it is given."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 4], np.ones(12, np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dyn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, place.root / "dyn.onnx")
    run = ("run", "--boards", "here", "--model", "dyn.onnx", "--profile", "smoke", "--json")
    refused = place.run(*run)
    assert refused.returncode == 64
    assert "--shape x=" in refused.stderr
    (row,) = table(place.run(*run, "--shape", "x=2,3"))["rows"]
    assert row["p50_ms"] > 0
    assert row["map50"] is None


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("demo", "--boards", "heer"), 12, "did you mean 'here'"),
        (("dem", "--boards", "here"), 12, "did you mean 'demo'"),
        (("--boards", "here", "--model", "absent.onnx"), 21, "absent.onnx"),
        (("--boards", "here", "--model", "broken.onnx"), 22, "broken.onnx"),
        (("--boards", "here", "--model", "tinydet", "--data", "."), 25, "VOC"),
        (
            ("--boards", "here", "--model", "tiny.onnx", "--recipes", "int8_ptq"),
            11,
            "--calibration",
        ),
        (("--boards", "here", *TINY, "--recipes", "int9"), 27, "int8_ptq"),
        (("nowhere.yaml", "--boards", "here"), 11, "nowhere.yaml"),
    ],
)
def test_bad_input(place: Desk, args: tuple[str, ...], code: int, words: str) -> None:
    """Wrong names and files are refused before anything is contacted, each in its own way."""
    (place.root / "broken.onnx").write_bytes(b"\x08\x07 not a model")
    result = place.run("run", *args)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert place.processes() == []


def test_malformed_inventory(place: Desk) -> None:
    """A wrong inventory is refused with file, line and field."""
    (place.root / "inventory.yaml").write_text("boards:\n  pi5:\n    adress: 10.0.0.1\n")
    result = place.run("run", "--boards", "pi5")
    assert result.returncode == 10
    assert "inventory.yaml" in result.stderr
    assert "address" in result.stderr
    assert ":3" in result.stderr or "line 3" in result.stderr


def test_resume_completes_a_run(place: Desk) -> None:
    """A run whose host was killed is completed: stored trials stay, missing ones are measured."""
    process = begin(place, blocks=3, seconds=2)
    place.await_rows("SELECT 1 FROM trials WHERE state = 'finished'")
    place.await_process("worker")
    process.kill()
    process.communicate()
    (before,) = place.rows("SELECT trial_id, ended_utc FROM trials")
    result = place.run("resume", "--plain")
    assert result.returncode == 0, result.stderr
    trials = place.rows("SELECT trial_id, state, ended_utc FROM trials ORDER BY trial_no")
    assert [trial["state"] for trial in trials] == ["finished"] * 3
    assert len({trial["trial_id"] for trial in trials}) == 3
    assert trials[0]["ended_utc"] == before["ended_utc"]
    assert [row["state"] for row in place.rows("SELECT state FROM runs")] == ["finished"]
    refused = place.run("resume")
    assert refused.returncode == 44
    assert "has finished" in refused.stderr


def test_resume_refuses_another_model(place: Desk) -> None:
    """A run is not completed with a model that has changed since it began."""
    process = begin(place, blocks=2, seconds=3)
    place.await_rows("SELECT 1 FROM trials WHERE state = 'finished'")
    process.kill()
    process.communicate()
    tiny_model(place.root / "tiny.onnx", size=16)
    result = place.run("resume", "--plain")
    assert result.returncode == 50, result.stderr
    assert "has changed" in result.stderr
