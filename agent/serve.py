"""`agent serve`: puts the parts of an agent together and runs its daemon."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import fingerprint
from agent.artifacts import Artifacts
from agent.daemon import Daemon, hold_home
from agent.errors import AgentUnavailable
from agent.home import Home, open_home, own_command
from agent.lease import Lease, board_lock_path
from agent.runner import Surroundings
from agent.service import Agent
from agent.supervisor import Supervisor
from agent.telemetry import Telemetry
from agent.wire.bundle import bundle_digest


def build(home: Home, digest: str, lock: Path, sysroot: Path) -> Agent:
    """An agent on this machine; raises HomeUnsafe."""
    telemetry = Telemetry(sysroot)
    artifacts = Artifacts(home.artifacts)
    lease = Lease(lock)
    around = Surroundings(
        telemetry=telemetry,
        argv=worker_command(artifacts.directory),
        vmstat=sysroot / "proc/vmstat",
    )
    return Agent(
        digest=digest,
        fingerprint=lambda: fingerprint.read(sysroot),
        telemetry=telemetry,
        artifacts=artifacts,
        lease=lease,
        supervisor=Supervisor(home.trials, artifacts, lease, around),
    )


def worker_command(artifacts: Path) -> Callable[[Path], Sequence[str]]:
    """The command line of a worker for a trial's directory."""
    return lambda directory: [
        *own_command(),
        *("worker", "--trial-dir", str(directory), "--artifacts", str(artifacts)),
        *("--parent", str(os.getpid())),
    ]


def run(root: Path, *, idle_s: float, lock: Path | None, sysroot: Path) -> int:
    """Serve the directory `root` until idle; the exit code, with the reason on stderr."""
    os.umask(0o077)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    digest = bundle_digest(Path(__file__).resolve().parent)
    try:
        home = open_home(root, digest)
        hold_home(home, digest)
        Daemon(home, build(home, digest, lock or board_lock_path(), sysroot), idle_s).run()
    except AgentUnavailable as exc:
        sys.stderr.write(f"agent: {exc}\n")
        return exc.exit_code
    return 0
