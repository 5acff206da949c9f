"""A board reached over ssh: `agent dial` through OpenSSH for the data, fabric to deploy."""

from __future__ import annotations

import json
import socket

from agent.wire import BenchError
from orchestrator.boards.base import Session
from orchestrator.boards.link import DialFailed, ProcessLink
from orchestrator.boards.sshcommand import SshTarget, explain, remote_path
from orchestrator.boards.welcome import require_packages
from orchestrator.deploy import Bundle
from orchestrator.errors import AgentDied, PackagesMissing

DIAL_TIMEOUT_S = 45.0
"""A 3B+ takes seconds to start an interpreter; a sleeping card longer."""


SSH_FAILED = 255
"""OpenSSH's own exit code; any other is the remote command's."""


class SshBoard:
    """An agent in `home` on the board, run by the board's `python`."""

    def __init__(
        self, target: SshTarget, *, home: str, python: str, extra: tuple[str, ...] = ()
    ) -> None:
        self._target = target
        self._home = home
        self._python = python
        self._extra = extra

    @property
    def name(self) -> str:
        """The name in the inventory."""
        return self._target.name

    def connect(self) -> Session:
        """Dial; only when that fails, look for the reason, deploy the agent and dial again.

        So a board that is ready costs one ssh process and no fabric at all.
        """
        bundle = Bundle.of_this_version()
        try:
            link = self._dial(bundle)
        except DialFailed as failed:
            refused = (
                explain(failed.stderr, self._target) if failed.exit_code == SSH_FAILED else None
            )
            if refused is not None:
                raise refused from failed
            self._deploy(bundle)
            try:
                link = self._dial(bundle)
            except DialFailed as exc:
                raise AgentDied(
                    f"{self.name}: the agent was deployed but did not start "
                    f"(exit code {exc.exit_code}): {exc.stderr or 'it said nothing'}"
                ) from exc
        session = Session(self.name, link)
        try:
            require_packages(session.hello(socket.gethostname()), self.name)
        except BaseException:
            session.close()
            raise
        return session

    def _agent(self, bundle: Bundle, words: str) -> str:
        """A command line for the board's shell that runs the bundle, isolated (-I)."""
        directory = remote_path(f"{self._home}/bundles/{bundle.directory_name}")
        return f"exec {remote_path(self._python)} -I {directory} {words}"

    def _dial(self, bundle: Bundle) -> ProcessLink:
        words = " ".join(["dial --home", remote_path(self._home), *map(remote_path, self._extra)])
        argv = self._target.argv(self._agent(bundle, words))
        return ProcessLink.dial(argv, self.name, DIAL_TIMEOUT_S)

    def _deploy(self, bundle: Bundle) -> None:
        """Install the bundle and ask its probe what the board's Python lacks."""
        from orchestrator.boards.remote import open_remote  # noqa: PLC0415 - paramiko is slow

        with open_remote(self._target) as remote:
            remote.install(bundle, self._home)
            probe = remote.run(self._agent(bundle, "probe"))
        problem = _read_probe(probe.stdout, probe.stderr, self.name, self._python)
        if problem is not None:
            raise problem


def _read_probe(stdout: str, stderr: str, board: str, python: str) -> BenchError | None:
    """What the probe's report says is in the way, or None."""
    lines = [line for line in stdout.splitlines() if line.startswith("{")]
    try:
        report = json.loads(lines[-1]) if lines else None
    except ValueError:
        report = None
    if not isinstance(report, dict):
        said = stderr.strip() or "it said nothing"
        return PackagesMissing(
            f"{board}: {python} cannot run the agent ({said}); set `python:` in the inventory to "
            f"a 64-bit Python 3.11 or newer on the board"
        )
    missing = report.get("missing") or {}
    if missing:
        listed = "; ".join(f"{name}: {why}" for name, why in missing.items())
        return PackagesMissing(
            f"{board}: {python} (Python {report.get('python')}) lacks what the agent needs: "
            f"{listed}. Install agent/requirements.lock there, or set `python:` in the inventory"
        )
    return None
