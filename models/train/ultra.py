"""Networks of ultralytics, trained by its own trainer in a child process.

It changes threads, settings, signal handlers and determinism of the process it runs in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import safetensors.torch
import torch

from models.errors import BuildFailed, DataError, ExtraMissing, ModelsError
from models.nets.net import Net, save_net
from models.spec import TrainingSpec
from models.steps.settings import Settings
from models.store import CurvePoint

if TYPE_CHECKING:
    from models.train.fit import Teacher

Log = Callable[[str], None]

SAID: Final = "orchestrator-says "
"""Begins the lines of the child's output that are ours."""
_LAST_LINES: Final = 15
_FAILURES: Final[dict[str, type[ModelsError]]] = {
    kind.__name__: kind for kind in (BuildFailed, DataError, ExtraMissing)
}


class Request(msgspec.Struct, frozen=True):
    """What the child is asked: files by path, everything else as it is given to `fit`."""

    net: Path
    trained: Path
    answer: Path
    training: TrainingSpec
    settings: Settings
    resume: Path | None
    teacher: Path | None
    alpha: float
    threads: int
    parent_pid: int


class Answer(msgspec.Struct, frozen=True):
    """What the child tells: the curves, or the class and text of an error."""

    curves: tuple[CurvePoint, ...] = ()
    failed: str | None = None
    error: str = ""


def fit(
    net: Net,
    training: TrainingSpec,
    settings: Settings,
    log: Log,
    *,
    teacher: Teacher | None,
    resume: Path | None,
) -> tuple[CurvePoint, ...]:
    """Train as `models.train.fit.fit` promises; raises what it raises."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-train-") as folder:
        work = Path(folder)
        save_net(net, work / "net")
        if teacher is not None:
            save_net(teacher.net, work / "teacher")
        request = Request(
            net=work / "net",
            trained=work / "trained.safetensors",
            answer=work / "answer.json",
            training=training,
            settings=common(settings),
            resume=resume,
            teacher=None if teacher is None else work / "teacher",
            alpha=0.0 if teacher is None else teacher.alpha,
            threads=torch.get_num_threads(),
            parent_pid=os.getpid(),
        )
        last = _run(work, request, log)
        if not request.answer.is_file():
            raise BuildFailed(f"the training ended without a result: {' | '.join(last)}")
        answer = msgspec.json.decode(request.answer.read_bytes(), type=Answer)
        if answer.failed is not None:
            raise _FAILURES.get(answer.failed, BuildFailed)(answer.error)
        net.module.load_state_dict(safetensors.torch.load_file(str(request.trained)))
    net.module.eval()
    return answer.curves


def common(settings: Settings) -> Settings:
    """What a step's own parameters have in common with all trainings."""
    return Settings(**{name: getattr(settings, name) for name in Settings.__struct_fields__})


def _run(work: Path, request: Request, log: Log) -> list[str]:
    """Run the child to its end; returns the last lines that were not ours."""
    root = str(Path(__file__).parents[2])
    (work / "request.json").write_bytes(msgspec.json.encode(request, enc_hook=str))  # paths
    env = os.environ | {
        # Nothing is ever installed or fetched, and nobody is told of a training.
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "YOLO_VERBOSE": "false",
        "YOLO_CONFIG_DIR": str(work),
        "MPLCONFIGDIR": str(work),
        "ULTRALYTICS_SAFE_LOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    last: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "models.train.ultra_child", str(work / "request.json")],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        try:
            for line in child.stdout or ():
                if line.startswith(SAID):
                    log(json.loads(line.removeprefix(SAID)))
                elif line.strip():
                    last = [*last, line.strip()][-_LAST_LINES:]
        except BaseException:
            child.kill()
            raise
    return last


def say(text: str) -> None:
    """In the child: a line for the parent's log."""
    sys.stdout.write(f"{SAID}{json.dumps(text)}\n")
    sys.stdout.flush()


def read_request(path: Path) -> Request:
    """In the child: what it is asked."""
    return msgspec.json.decode(
        path.read_bytes(), type=Request, dec_hook=lambda kind, value: kind(value)
    )
