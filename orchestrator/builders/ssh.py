"""A builder reached over ssh: OpenSSH carries the conversation, on the user's own terms.

Its host key, login and aliases are those of the user's ssh: a machine that `ssh NAME` reaches
without a question can build.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from models.errors import BuilderLost
from models.remote.client import BuilderClient
from models.remote.frames import await_ready
from orchestrator.boards.link import LastWords, end_process
from orchestrator.boards.sshcommand import (
    ALIVE_COUNT,
    ALIVE_INTERVAL_S,
    CONNECT_TIMEOUT_S,
    remote_path,
)
from orchestrator.builders.code import STARTER, Code
from orchestrator.builders.entry import BuilderEntry

INSTALL_TIMEOUT_S: Final = 300.0
_SETTINGS: Final = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(CONNECT_TIMEOUT_S),
    "ServerAliveInterval": str(ALIVE_INTERVAL_S),
    "ServerAliveCountMax": str(ALIVE_COUNT),
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}


@contextmanager
def opened(entry: BuilderEntry, ssh_config: Path | None) -> Iterator[BuilderClient]:
    """A conversation with the builder, ended with the block; raises BuilderLost."""
    code = Code.of_this_version()
    _install(entry, ssh_config, code)
    folder = remote_path(f"{entry.home}/code/{code.digest[:16]}")
    command = (
        f"exec {remote_path(entry.python)} -s -c {shlex.quote(STARTER)} "
        f"{folder} {remote_path(entry.home)} watch"
    )
    process = subprocess.Popen(
        _argv(entry, ssh_config, command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    words = LastWords(process)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process has no standard streams")
    try:
        try:
            await_ready(process.stdout)
            yield BuilderClient(process.stdout, process.stdin, entry.paths)
        except (BuilderLost, OSError) as exc:
            end_process(process)
            raise BuilderLost(f"builder {entry.name}: {exc} [{words.text() or 'silence'}]") from exc
    finally:
        end_process(process)


def _install(entry: BuilderEntry, ssh_config: Path | None, code: Code) -> None:
    """Put the code there, whole or not at all; what is there already is left."""
    codes = f"{entry.home}/code"
    target = remote_path(f"{codes}/{code.digest[:16]}")
    new = remote_path(f"{codes}/.new-{secrets.token_hex(4)}")
    script = (
        f"test -d {target} && exit 0; umask 077; mkdir -p {remote_path(codes)} && mkdir {new} && "
        f"tar -xzf - -C {new} && {{ mv -T {new} {target} || test -d {target}; }}; "
        f"code=$?; rm -rf {new}; exit $code"
    )
    try:
        done = subprocess.run(
            _argv(entry, ssh_config, f"exec sh -c {shlex.quote(script)}"),
            input=code.archive,
            capture_output=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BuilderLost(
            f"builder {entry.name}: no answer within {INSTALL_TIMEOUT_S:.0f} s"
        ) from exc
    except OSError as exc:
        raise BuilderLost(f"builder {entry.name}: ssh cannot be run here: {exc}") from exc
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"code {done.returncode}"
        raise BuilderLost(
            f"builder {entry.name}: its code could not be put there ({said}); "
            f"`ssh {entry.address} true` has to work without a question"
        )


def _argv(entry: BuilderEntry, ssh_config: Path | None, command: str) -> list[str]:
    config = [] if ssh_config is None else ["-F", str(ssh_config)]
    settings = [word for key, value in _SETTINGS.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", *config, *settings, "-T", "-a", "-x", "--", entry.address, command]
