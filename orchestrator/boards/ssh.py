"""A board reached over ssh: `agent dial` through OpenSSH for the data, fabric to deploy."""

from __future__ import annotations

import shlex
import socket
from typing import Final

from agent.wire import BenchError
from orchestrator.boards.base import Session
from orchestrator.boards.link import DialFailed, ProcessLink
from orchestrator.boards.sshcommand import SshTarget, explain, remote_path
from orchestrator.boards.welcome import probe_report, require_packages
from orchestrator.deploy import Bundle
from orchestrator.errors import AgentDied, BoardUnreachable, PackagesMissing

DIAL_TIMEOUT_S = 45.0
"""A 3B+ takes seconds to start an interpreter; a sleeping card longer."""
EMULATED_DIAL_TIMEOUT_S = 240.0
"""An emulated core takes ten times as long, on a busy host thirty times."""

PROBE_TIMEOUT_S = 300.0
"""Six imports, one after the other on a board with one core; the probe bounds each."""

SSH_FAILED = 255
"""OpenSSH's own exit code; it has no words where a signal ended the remote command."""

AGENT_FAILED = range(61, 67)
"""The exit codes of the agent's own errors: it is there and runs, and says what is in the way."""


PROVISIONED: Final = "env/current"
"""Below the agent's home: a link to the interpreter and packages that `provision` put there."""


class SshBoard:
    """An agent in `home` on the board.

    It is run by `python`; None means the provisioned interpreter, or else the board's `python3`:
    the far shell looks, so that this costs no round trip and no record here can go stale.
    """

    def __init__(
        self,
        target: SshTarget,
        *,
        home: str,
        python: str | None = None,
        extra: tuple[str, ...] = (),
        dial_timeout_s: float = DIAL_TIMEOUT_S,
    ) -> None:
        self._target = target
        self._home = home
        self._python = python
        self._extra = extra
        self._dial_timeout_s = dial_timeout_s

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
            self._raise_unless_absent(failed)
            self._deploy(bundle)
            try:
                link = self._dial(bundle)
            except DialFailed as exc:
                self._raise_unless_absent(exc)
                raise AgentDied(
                    f"{self.name}: the agent was deployed but did not start ({exc})"
                ) from exc
        session = Session(self.name, link)
        try:
            require_packages(session.hello(socket.gethostname()), self.name)
        except BaseException:
            session.close()
            raise
        return session

    def _raise_unless_absent(self, failed: DialFailed) -> None:
        """Raise what ssh or the agent itself said; anything else may mean: no agent there yet."""
        if failed.exit_code == SSH_FAILED and failed.stderr:
            raise explain(failed.stderr, self._target) or BoardUnreachable(
                f"ssh could not reach it: {failed.stderr}", self.name
            ) from failed
        if failed.exit_code in AGENT_FAILED:
            raise AgentDied(f"the agent did not start: {failed.stderr}", self.name) from failed

    def _agent(self, bundle: Bundle, words: str) -> str:
        """A command line for the board's shell that runs the bundle, isolated (-I)."""
        directory = remote_path(f"{self._home}/bundles/{bundle.directory_name}")
        if self._python is not None:
            return f"exec {remote_path(self._python)} -I {directory} {words}"
        # The link is followed here: a daemon keeps the version that it was started with.
        current = remote_path(f"{self._home}/{PROVISIONED}")
        script = (
            f"python=python3; test -x {current}/bin/python3 && "
            f'python="$(readlink -f {current})/bin/python3"; '
            f'exec "$python" -I {directory} {words}'
        )
        return f"exec sh -c {shlex.quote(script)}"

    def _dial(self, bundle: Bundle) -> ProcessLink:
        words = " ".join(["dial --home", remote_path(self._home), *map(remote_path, self._extra)])
        argv = self._target.argv(self._agent(bundle, words))
        try:
            return ProcessLink.dial(argv, self.name, self._dial_timeout_s)
        except OSError as exc:
            raise BoardUnreachable(f"cannot run ssh here: {exc.strerror}", self.name) from exc

    def _deploy(self, bundle: Bundle) -> None:
        """Install the bundle and ask its probe what the board's Python lacks."""
        from orchestrator.boards.remote import open_remote  # noqa: PLC0415 - paramiko is slow

        with open_remote(self._target) as remote:
            remote.install(bundle, self._home)
            probe = remote.run(self._agent(bundle, "probe"), PROBE_TIMEOUT_S)
        problem = _read_probe(probe.stdout, probe.stderr, self.name, self._python)
        if problem is not None:
            raise problem


def _read_probe(stdout: str, stderr: str, board: str, python: str | None) -> BenchError | None:
    """What the probe's report says is in the way, or None."""
    fix = (
        f"`orchestrator boards provision {board}` puts all of it there"
        if python is None
        else "install agent/requirements.lock for it, or take `python:` out of the inventory and "
        f"let `orchestrator boards provision {board}` put all of it there"
    )
    python = python or "its Python"
    report = probe_report(stdout)
    if report is None:
        said = stderr.strip() or "it said nothing"
        return PackagesMissing(
            f"{board}: {python} cannot run the agent ({said}), which needs a 64-bit Python 3.11 or "
            f"newer and a few packages; {fix}"
        )
    missing = report.get("missing") or {}
    if missing:
        listed = "; ".join(f"{name}: {why}" for name, why in missing.items())
        return PackagesMissing(
            f"{board}: {python} (Python {report.get('python')}) lacks what the agent needs: "
            f"{listed}; {fix}"
        )
    return None
