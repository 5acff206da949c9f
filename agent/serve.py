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
from agent.doctor import Doctor, Instruments
from agent.errors import AgentUnavailable
from agent.home import Home, open_home, own_command
from agent.lease import Lease, board_lock_path
from agent.runner import Surroundings
from agent.service import Agent
from agent.supervisor import Supervisor
from agent.telemetry import Telemetry, find_vcgencmd
from agent.wire.bundle import bundle_digest


def build(home: Home, digest: str, lock: Path, sysroot: Path) -> Agent:
    """An agent on this machine; raises HomeUnsafe."""
    telemetry = Telemetry(sysroot)
    lease = Lease(lock)
    artifacts = Artifacts(home.artifacts, holder=lease.run_id)
    around = Surroundings(
        telemetry=telemetry,
        argv=worker_command(artifacts.directory),
        vmstat=sysroot / "proc/vmstat",
    )
    supervisor = Supervisor(home.trials, artifacts, lease, around)
    doctor = Doctor(
        Instruments(
            home=home.root,
            telemetry=telemetry,
            sysroot=sysroot,
            vcgencmd=find_vcgencmd() if sysroot == Path("/") else None,
            occupied=lambda: _occupied(supervisor, lease),
        )
    )
    return Agent(
        digest=digest,
        fingerprint=lambda: fingerprint.read(sysroot),
        telemetry=telemetry,
        artifacts=artifacts,
        lease=lease,
        supervisor=supervisor,
        doctor=doctor.diagnose,
    )


def _occupied(supervisor: Supervisor, lease: Lease) -> str | None:
    """Who must not be disturbed now, in words."""
    trial_id = supervisor.running()
    if trial_id is not None:
        return f"trial {trial_id} runs"
    held = lease.current()
    return None if held is None else f"{held.holder} measures here (run {held.run_id})"


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
