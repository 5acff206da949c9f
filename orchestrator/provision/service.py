"""A systemd user unit for the agent, instead of a start on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from orchestrator.boards.shell import Shell, run_script
from orchestrator.boards.sshcommand import remote_path
from orchestrator.provision.environment import check, run_fed
from orchestrator.provision.survey import Survey

_FOLDER: Final = "~/.config/systemd/user"

_PRELUDE: Final = """
[ -n "$XDG_RUNTIME_DIR" ] || XDG_RUNTIME_DIR=/run/user/$(id -u)
export XDG_RUNTIME_DIR
"""

_START: Final = f"""{_PRELUDE}
systemctl --user daemon-reload && systemctl --user enable --quiet "$1" &&
  systemctl --user restart "$1"
"""

_IN_USE: Final = f"""{_PRELUDE}
systemctl --user is-active --quiet "$2" && cat "$1"
"""

_REMOVE: Final = f"""{_PRELUDE}
unit="$1/$2"
[ -e "$unit" ] || exit 0
systemctl --user disable --quiet --now "$2"
rm -f "$unit" "$1/default.target.wants/$2"
systemctl --user daemon-reload
rmdir "$1/default.target.wants" "$1" "${{1%/*}}" 2>/dev/null
[ ! -e "$unit" ]
"""


def unit_name(home: str) -> str:
    """One unit for each home of an account."""
    return f"orchestrator-agent-{hashlib.sha256(home.encode()).hexdigest()[:8]}.service"


@dataclass(frozen=True)
class Service:
    """What the unit is to run; absolute paths of the board."""

    home: str
    python: str
    bundle: str
    extra: tuple[str, ...] = ()


def unit_text(service: Service) -> str:
    """The unit: the agent, never idle, with /sys in view."""
    words = [service.python, "-I", service.bundle, "serve", "--home", service.home]
    command = " ".join(map(_quoted, [*words, "--idle-s", "inf", *service.extra]))
    return (
        "[Unit]\nDescription=Agent of the benchmark orchestrator\n\n"
        f"[Service]\nExecStart={command}\n"
        "UMask=0077\nRestart=on-failure\nNoNewPrivileges=yes\n\n"
        "[Install]\nWantedBy=default.target\n"
    )


def _quoted(word: str) -> str:
    """One word of ExecStart; `%` and `$` stand for themselves, a leading `~/` for the login's."""
    if word.startswith("~/"):
        return '"%h/' + _quoted(word[2:])[1:]
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped.replace("%", "%%").replace("$", "$$")}"'


def unavailable(survey: Survey, board: str) -> str | None:
    """Why no user unit can be had, in words; None when it can."""
    if survey.user_manager:
        return None
    return (
        f"no systemd user manager answers on {board}, so there is no unit to install: the agent "
        f"starts on demand over ssh, survives the ssh session and stops when idle, as without "
        f"--service"
    )


def linger_note(survey: Survey) -> str | None:
    """What is needed for the unit to run while nobody is logged in; None when it is so."""
    if survey.linger:
        return None
    return (
        "the unit ends with the last login until this is typed on the board, once: "
        f"`sudo loginctl enable-linger {survey.user}`"
    )


def install(shell: Shell, board: str, service: Service) -> str:
    """Write the unit, enable it and start it; returns its name. Raises TransferFailed."""
    name = unit_name(service.home)
    text = unit_text(service).encode()
    folder = remote_path(_FOLDER)
    command = f"umask 077; mkdir -p {folder} && cat > {folder}/{name}"
    check(run_fed(shell, command, iter([text])), board, "the unit could not be written")
    check(run_script(shell, _START, name), board, "the unit could not be started")
    return name


def in_use(shell: Shell, service: Service) -> bool:
    """Whether exactly this unit is there and its agent runs."""
    name = unit_name(service.home)
    return run_script(shell, _IN_USE, f"{_FOLDER}/{name}", name).stdout == unit_text(service)


def installed(shell: Shell, home: str) -> bool:
    """Whether a unit of this home is there."""
    path = f"{_FOLDER}/{unit_name(home)}"
    return run_script(shell, '[ -e "$1" ]', path).exit_code == 0


def remove(shell: Shell, board: str, home: str) -> bool:
    """Stop and remove the unit; False where there is none. Raises TransferFailed."""
    if not installed(shell, home):
        return False
    result = run_script(shell, _REMOVE, _FOLDER, unit_name(home))
    check(result, board, "the unit could not be removed")
    return True
