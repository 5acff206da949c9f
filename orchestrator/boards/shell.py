"""Running commands where a board is: the one small interface that fabric and tests share."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from orchestrator.boards.sshcommand import remote_path
from orchestrator.errors import BoardUnreachable

COMMAND_TIMEOUT_S: Final = 60.0
_BEGIN: Final = "--- the answer begins here ---"


@dataclass(frozen=True)
class CommandResult:
    """How a command on the board ended and what it said."""

    exit_code: int
    stdout: str
    stderr: str
    printed_at_login: str = ""
    """What came before a script's own output; see `run_script`."""


class Shell(Protocol):
    """Runs commands with the board's own shell, as the account that logs in."""

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> CommandResult:
        """Run a command without input; a non-zero exit is a result, not an error.

        Raises BoardUnreachable when it does not end in time.
        """

    def feed(
        self, command: str, chunks: Iterable[bytes], timeout_s: float = COMMAND_TIMEOUT_S
    ) -> CommandResult:
        """As `run`, with `chunks` on its standard input; each may take `timeout_s` to be taken.

        A command that ends before it has read everything is a result as well.
        """


def run_script(
    shell: Shell, script: str, *words: str, timeout_s: float = COMMAND_TIMEOUT_S
) -> CommandResult:
    """Run a POSIX sh script, with `words` as its arguments, whatever the login shell is.

    What a login script prints first is not in the answer's `stdout`.
    """
    quoted = " ".join(map(remote_path, words))
    marked = f"echo '{_BEGIN}'; {script}"
    result = shell.run(f"exec sh -c {shlex.quote(marked)} sh {quoted}", timeout_s)
    before, _, said = result.stdout.partition(f"{_BEGIN}\n")
    return CommandResult(result.exit_code, said, result.stderr, printed_at_login=before)


class LocalShell:
    """The shell of this machine, for the board that is this machine."""

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        self._name = name
        self._environment = environment

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> CommandResult:
        """See `Shell.run`."""
        return self.feed(command, (), timeout_s)

    def feed(
        self, command: str, chunks: Iterable[bytes], timeout_s: float = COMMAND_TIMEOUT_S
    ) -> CommandResult:
        """See `Shell.feed`; `timeout_s` is for the whole command, and the input is small here."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if self._environment is None else dict(self._environment),
            start_new_session=True,
        )
        with process:
            try:
                said, complained = process.communicate(b"".join(chunks), timeout_s)
            except BaseException as exc:
                os.killpg(process.pid, signal.SIGKILL)  # with all that it started
                if not isinstance(exc, subprocess.TimeoutExpired):
                    raise
                raise BoardUnreachable(
                    f"{self._name}: a command did not end within {timeout_s:.0f} s"
                ) from exc
        return CommandResult(
            process.returncode, said.decode(errors="replace"), complained.decode(errors="replace")
        )
