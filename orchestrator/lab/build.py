"""Running the tools that build an image: logged, bounded in time, and ended with this process."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.lab import process
from orchestrator.lab.errors import ImageBuildFailed

TIMEOUT_S: Final = 1200.0
"""Longest build step: some 120 MB of downloads on a slow line."""
END_TIMEOUT_S: Final = 10.0
_POLITE_S: Final = 1.0
_LAST_LINES: Final = 12


def run(argv: Sequence[str], *, lab: Path, folder: Path, what: str) -> None:
    """Run one tool in `folder`, at low priority; raises ImageBuildFailed with its last words.

    It has a session of its own; whatever it started is ended when this call is interrupted.
    """
    log = folder / "build.log"
    with log.open("ab") as stream:
        started = subprocess.Popen(
            ["nice", "-n", "10", *argv],
            cwd=folder,
            env=process.environment(lab, process.BUILDER) | {"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            exit_code = started.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired as exc:
            raise ImageBuildFailed(
                f"{what} did not end within {TIMEOUT_S:.0f} s; is the network slow? "
                f"The last it said:\n{_last_words(log)}"
            ) from exc
        finally:
            if started.poll() is None:
                end_builders(lab)
                started.wait(END_TIMEOUT_S)
    if exit_code != 0:
        raise ImageBuildFailed(
            f"{what} failed (exit code {exit_code}); the last it said:\n{_last_words(log)}"
        )


def end_builders(lab: Path) -> None:
    """End every build process of the lab in `lab`, those of a command that was killed too.

    Politely first: fakeroot's helper then gives its message queue back.
    """
    for found, role in process.marked(lab).items():
        if role == process.BUILDER:
            process.send(found, signal.SIGTERM)
            process.wait_end(found, _POLITE_S)
    process.kill_all(lab, process.BUILDER, END_TIMEOUT_S)


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
