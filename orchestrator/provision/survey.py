"""What a board is, asked by one shell script that needs no Python; and whether it can measure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.boards.shell import Shell, run_script
from orchestrator.errors import BoardUnfit, TransferFailed
from orchestrator.provision.target import OLDEST_GLIBC, Target

OLDEST_PYTHON: Final = (3, 11)
_KIBIBYTE: Final = 1024
_USERLAND_BITS: Final = 64
_VALUE_LIMIT: Final = 300

_ASK_PYTHON: Final = (
    "import os, struct, sys; "
    'own = getattr(sys, "_base_executable", None) or sys.executable; '
    'print("python=%d.%d.%d %d %s%s %s" % (tuple(sys.version_info[:3]) + '
    '(struct.calcsize("P") * 8, sys.implementation.name, getattr(sys, "abiflags", ""), '
    "os.path.realpath(own))))"
)

SCRIPT: Final = f"""
home=$(readlink -m "$1")
place=$home
while [ ! -d "$place" ] && [ "$place" != / ]; do place=$(dirname "$place"); done
say() {{ printf '%s=%s\\n' "$1" "$2"; }}
quiet() {{ "$@" 2>/dev/null; }}
say home "$home"
say bits "$(quiet getconf LONG_BIT)"
say machine "$(uname -m)"
libc=$(quiet getconf GNU_LIBC_VERSION)
[ -n "$libc" ] || libc=$(ldd --version 2>&1 | head -n 1)
say libc "$libc"
say os "$( (quiet cat /etc/os-release || quiet cat /usr/lib/os-release) |
  sed -n 's/^PRETTY_NAME=//p' | tr -d '"')"
say hostname "$(quiet hostname || uname -n)"
say machine_id "$(quiet cat /etc/machine-id)"
for at in /sys/firmware/devicetree/base /proc/device-tree; do
  [ -r "$at/model" ] && say model "$(tr -d '\\000' < "$at/model")"
  [ -r "$at/serial-number" ] && say serial "$(tr -d '\\000' < "$at/serial-number")"
done
say user "$(id -un)"
say groups "$(id -nG)"
say memory_kib "$(quiet sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)"
say free_kib "$(df -Pk "$place" | awk 'NR == 2 {{print $4}}')"
trial="$place/.orchestrator-$$"
if (umask 077; : > "$trial") 2>/dev/null; then rm -f "$trial"; say writable yes
else say writable no; fi
case ",$(quiet findmnt -no OPTIONS -T "$place")," in *,noexec,*) say noexec yes;; esac
if command -v vcgencmd > /dev/null; then
  case "$(timeout 5 vcgencmd get_throttled 2>/dev/null)" in
    throttled=*) say vcgencmd yes;; *) say vcgencmd refused;;
  esac
fi
governor=/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
if [ -r "$governor" ]; then
  say governor "$(cat "$governor")"
  [ -w "$governor" ] && say governor_writable yes
fi
[ -n "$XDG_RUNTIME_DIR" ] || XDG_RUNTIME_DIR=/run/user/$(id -u)
export XDG_RUNTIME_DIR
timeout 10 systemctl --user show-environment > /dev/null 2>&1 && say user_manager yes
[ -e "/var/lib/systemd/linger/$(id -un)" ] && say linger yes
seen=
for name in python3 python3.14 python3.13 python3.12 python3.11; do
  path=$(command -v "$name") || continue
  real=$(readlink -f "$path")
  case " $seen " in *" $real "*) continue;; esac
  seen="$seen $real"
  quiet "$path" -I -c '{_ASK_PYTHON}'
done
say end yes
"""
"""Prints NAME=VALUE lines; $1 is the agent's home. What cannot be told has an empty value."""


@dataclass(frozen=True)
class Interpreter:
    """A Python of the board: its own path, links followed, and its build (usually 'cpython')."""

    path: str
    version: tuple[int, int, int]
    bits: int
    implementation: str

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class Survey:
    """A board's answers; None or '' where it does not say. `home` is absolute."""

    home: str
    bits: int | None
    machine: str
    libc: str
    os: str
    hostname: str
    machine_id: str
    model: str
    serial: str
    user: str
    groups: tuple[str, ...]
    free_bytes: int | None
    writable: bool
    noexec: bool
    vcgencmd: str
    governor: str
    governor_writable: bool
    user_manager: bool
    linger: bool
    pythons: tuple[Interpreter, ...]
    printed_at_login: bool = False
    memory_bytes: int | None = None

    @property
    def glibc(self) -> tuple[int, int] | None:
        """(major, minor), or None where the C library is another."""
        found = re.fullmatch(r"glibc (\d{1,3})\.(\d{1,3})(?:\.\d+)?", self.libc)
        return (int(found[1]), int(found[2])) if found else None

    @property
    def python(self) -> Interpreter | None:
        """The board's `python3` if it will do, else the newest other that will."""
        fit = [one for one in self.pythons if unfit_python(one) is None]
        if not fit or fit[0] == self.pythons[0]:
            return fit[0] if fit else None
        return max(fit, key=lambda one: one.version)


def ask(shell: Shell, board: str, home: str) -> Survey:
    """Ask a board; raises TransferFailed when its answer is cut short."""
    result = run_script(shell, SCRIPT, home)
    survey = parse(result.stdout, printed_at_login=bool(result.printed_at_login.strip()))
    if survey is None:
        raise TransferFailed(
            f"the survey of the board was cut short (exit code {result.exit_code}): "
            f"{result.stderr.strip() or 'it said nothing'}",
            board,
        )
    return survey


def parse(text: str, *, printed_at_login: bool = False) -> Survey | None:
    """The answers in the script's output; None when its end is missing."""
    pairs = [line.partition("=")[::2] for line in text.splitlines()]
    values = {name: value.strip()[:_VALUE_LIMIT] for name, value in pairs if value}
    if values.get("end") != "yes":
        return None

    def number(name: str) -> int | None:
        value = values.get(name, "")
        return int(value) if re.fullmatch(r"\d{1,15}", value) else None

    free_kib, memory_kib = number("free_kib"), number("memory_kib")
    return Survey(
        home=values.get("home", ""),
        bits=number("bits"),
        machine=values.get("machine", ""),
        libc=values.get("libc", ""),
        os=values.get("os", "Linux"),
        hostname=values.get("hostname", ""),
        machine_id=values.get("machine_id", ""),
        model=values.get("model", ""),
        serial=values.get("serial", ""),
        user=values.get("user", ""),
        groups=tuple(values.get("groups", "").split()),
        free_bytes=None if free_kib is None else free_kib * _KIBIBYTE,
        writable=values.get("writable") == "yes",
        noexec=values.get("noexec") == "yes",
        vcgencmd=values.get("vcgencmd", ""),
        governor=values.get("governor", ""),
        governor_writable=values.get("governor_writable") == "yes",
        user_manager=values.get("user_manager") == "yes",
        linger=values.get("linger") == "yes",
        pythons=tuple(
            one for name, value in pairs if name == "python" and (one := _interpreter(value))
        ),
        printed_at_login=printed_at_login,
        memory_bytes=None if memory_kib is None else memory_kib * _KIBIBYTE,
    )


def _interpreter(value: str) -> Interpreter | None:
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3}) (\d{1,3}) (\S{1,40}) (/.{1,250})", value)
    if found is None:
        return None
    version = (int(found[1]), int(found[2]), int(found[3]))
    return Interpreter(found[6], version, int(found[4]), found[5])


def unfit_python(python: Interpreter) -> str | None:
    """Why an interpreter cannot run the agent, or None."""
    if python.version[:2] < OLDEST_PYTHON:
        return f"Python {python} is too old"
    if python.bits != _USERLAND_BITS:
        return f"Python {python} has {python.bits} bits"
    if python.implementation != "cpython":
        return f"Python {python} is {python.implementation}, a build that the wheels do not fit"
    return None


def target_of(survey: Survey, board: str) -> tuple[Target, Interpreter]:
    """What wheels the board needs, and the Python they are for; raises BoardUnfit in words."""
    reason = refusal(survey)
    if reason is not None:
        raise BoardUnfit(reason, board)
    python, glibc = survey.python, survey.glibc
    if python is None or glibc is None:  # refusal() has words for both
        raise BoardUnfit("it has no Python or no glibc that wheels are made for", board)
    return Target(_machine(survey.machine), python.version[:2], glibc), python


def refusal(survey: Survey) -> str | None:
    """Why a board can never measure as it is, and the way out; None when it can."""
    for reason in (_wrong_userland(survey), _wrong_python(survey.pythons, survey.os)):
        if reason is not None:
            return reason
    if not survey.writable:
        return (
            f"{survey.home} cannot be made: {survey.user} may not write there, or the card is "
            f"read-only; set `home:` in the inventory to a directory of that user's, or make the "
            f"card writable (`sudo raspi-config`, Performance Options, Overlay File System)"
        )
    if survey.noexec:
        return (
            f"{survey.home} is on a file system mounted noexec, from which no native package can "
            f"be loaded; set `home:` in the inventory to a directory elsewhere"
        )
    return None


def _wrong_userland(survey: Survey) -> str | None:
    card = "write the 64-bit Raspberry Pi OS (bookworm or trixie) to its card"
    if survey.bits is not None and survey.bits != _USERLAND_BITS:
        kernel = " although its kernel has 64" if _machine(survey.machine) in OLDEST_GLIBC else ""
        return (
            f"its userland ({survey.os}) has {survey.bits} bits{kernel}, and onnxruntime is made "
            f"for 64 only; {card} (a Raspberry Pi 3, Zero 2 or newer can run it)"
        )
    if _machine(survey.machine) not in OLDEST_GLIBC:
        known = " and ".join(OLDEST_GLIBC)
        return f"its processor is '{survey.machine}', and there are wheels for {known} only"
    if survey.glibc is None:
        library = "musl" if "musl" in survey.libc.lower() else survey.libc or "unknown"
        return f"its C library is {library} ({survey.os}), and the wheels need glibc; {card}"
    return None


def _wrong_python(pythons: Sequence[Interpreter], system: str) -> str | None:
    way_out = (
        "write a newer 64-bit Raspberry Pi OS to its card (bookworm has Python 3.11, trixie 3.13)"
    )
    if not pythons:
        return (
            f"it has no python3 ({system}); `sudo apt install python3` where the system is "
            f"bookworm or newer, else {way_out}"
        )
    reasons = [reason for one in pythons if (reason := unfit_python(one))]
    if len(reasons) < len(pythons):
        return None
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return (
        f"{'; '.join(reasons)} ({system}), and the agent needs a 64-bit CPython {oldest} or newer; "
        f"{way_out}"
    )


def _machine(name: str) -> str:
    """The machine as wheels call it."""
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)
