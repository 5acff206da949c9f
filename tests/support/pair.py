"""Two virtual boards that measure the same: faults are done to one, the other must not notice."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper
from support.aftermath import experiment, require_complete, require_untouched
from support.onnxmodels import tiny_model
from support.runthread import RunThread, rows_of
from support.virtual import RealLab

from orchestrator.events import Event, TrialProgress
from orchestrator.execute import Patience
from orchestrator.lab import faults

HIT, OTHER = "pi5-virtual", "pi3b-virtual"
TRIAL_S = 4.0
TOLERANT = Patience(reconnect_delays_s=(1.0, 2.0, 5.0, 10.0, 20.0, 20.0, 20.0))
"""A virtual board boots within seconds, or within a minute where others compute."""
SHORT = Patience(reconnect_delays_s=(0.5,))
BOUND_S = 420.0
"""For a run of about 40 s with one fault in it, on a host that is ten times as slow."""
FIRST_CONTACT_S = 480.0
"""The agent is deployed, and its packages are imported for the first time."""
WEIGHTS_BYTES = 24 << 20
AGENT = "[s]erve --home"
WORKER = "[-]-trial-dir"
"""Patterns of command lines for pgrep, which do not match pgrep's own."""
LOGGED = (
    "until for log in /home/pi/.orchestrator/trials/*/samples.log; do [ -s $log ] && break; done; "
    "do sleep 0.5; done"
)
"""Waits on a board until samples of a running trial have been forced to its disk.

Only `sleep` is a process: each one costs an emulated board a tenth of a second.
"""
LEFT = f"grep -ls {{run}} ~/.orchestrator/trials/*/spec.json; pgrep -f -- '{WORKER}'; true"
"""Asks a board for journals of a run that are not acknowledged, and for workers."""


@dataclass(frozen=True)
class Pair:
    """A lab with both boards up, whose agents have run before."""

    lab: RealLab

    @property
    def root(self) -> Path:
        return self.lab.place.root

    def begin(
        self,
        *,
        blocks: int = 2,
        model: str = "tiny.onnx",
        seconds: float = TRIAL_S,
        patience: Patience = TOLERANT,
        meanwhile: Callable[[Event], None] = lambda _: None,
    ) -> RunThread:
        """A run of that many trials on each board, in a thread of this process."""
        self.write(blocks=blocks, model=model, seconds=seconds)
        return RunThread(self.lab.place, f"{HIT},{OTHER}", "faults.yaml", patience, meanwhile)

    def resume(self) -> RunThread:
        """The latest run again, in a thread of this process."""
        return RunThread(self.lab.place, "", None, TOLERANT)

    def write(self, *, blocks: int, model: str = "tiny.onnx", seconds: float = TRIAL_S) -> str:
        """The experiment's file; its name."""
        text = experiment(blocks=blocks, seconds=seconds, models=[model])
        (self.root / "faults.yaml").write_text(text)
        return "faults.yaml"

    @contextlib.contextmanager
    def command(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`orchestrator` as a process of its own, once both boards are in the middle of a trial.

        It is ended here at the latest.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words, "--plain"],
            cwd=self.root, env=os.environ | {"COLUMNS": "120"}, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            self.await_logged(HIT)
            self.await_logged(OTHER)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the latest run."""
        return rows_of(self.lab.place.database, sql, self.latest())

    def latest(self) -> str:
        """Id of the latest run."""
        asked = "SELECT run_id FROM runs ORDER BY started_utc DESC LIMIT 1"
        return str(rows_of(self.lab.place.database, asked)[0]["run_id"])

    def await_logged(self, board: str = HIT) -> None:
        """Until samples of a running trial have reached the board's disk."""
        self.lab.as_root(board, LOGGED, BOUND_S)

    def when_sampling(self, command: str) -> None:
        """Have root on the hit board run a command in the middle of the next trial there.

        It fires on the board itself, so no login's time passes between the moment and the deed.
        """
        self.lab.as_root(HIT, f"{{ ({LOGGED}; {command}) >/dev/null 2>&1 & }}")

    def await_samples(self, run: RunThread) -> None:
        """Until the board that will be hit has told the host of a sample."""
        run.await_event(
            TrialProgress, HIT, lambda e: e.poll.phase == "sample" and e.poll.samples_done > 0
        )

    def cut_power(self) -> None:
        faults.cut_power(self.lab.lab, HIT)

    def power_on(self, clock_utc: str | None = None) -> None:
        faults.power_on(self.lab.lab, HIT, clock_utc)

    def require_aftermath(self, run: RunThread, trials: int = 2) -> None:
        """All is stored once, the other board did not notice, the boards have nothing left."""
        require_complete(run.rows, {HIT: trials, OTHER: trials})
        require_untouched(run.rows, OTHER, trials)
        self.require_clean()

    def require_clean(self) -> None:
        """The latest run's journals are acknowledged and no worker is left, on either board."""
        asked = LEFT.format(run=self.latest())
        for name in (HIT, OTHER):
            assert self.lab.said(name, asked).split() == []


def make_pair(lab: RealLab) -> Pair:
    """Both boards, up, with an agent that has run before."""
    lab.up(HIT, OTHER)
    pair = Pair(lab)
    tiny_model(pair.root / "tiny.onnx")
    large_model(pair.root / "large.onnx")
    first = pair.begin(blocks=1, seconds=0)
    assert first.end(FIRST_CONTACT_S).errors == ()
    return pair


def large_model(path: Path) -> Path:
    """One product with a matrix that takes seconds to push."""
    width = WEIGHTS_BYTES // 4 // 1024
    weight = np.random.default_rng().standard_normal((width, 1024), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1024])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def ssh_processes(root: Path) -> list[psutil.Process]:
    """Every ssh to a board of this workspace, whoever started it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line[:1] == ["ssh"] and any(str(root) in word for word in line):
                found.append(process)
    return found


def await_no_ssh(root: Path, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while ssh_processes(root):
        assert time.monotonic() < deadline, ssh_processes(root)
        time.sleep(0.1)
