"""`doctor`: looks at everything on a board that a figure can suffer from.

It takes seconds, so it works in a thread of its own: the first call begins a diagnosis, and the
calls after it answer with what there is until it is complete.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent import checks, heat
from agent.busy import Busy, busiest, load_average
from agent.checks import Imported
from agent.emulation import emulated_by
from agent.fingerprint import Userland, this_userland, versions
from agent.heat import Account, Firmware
from agent.network import uplink
from agent.oldjournals import waiting
from agent.procfs import board_text, cpu_info, read_int, read_text
from agent.sampler import Telemetry
from agent.telemetry import CommandRunner, parse_throttled
from agent.wire import RUNTIME_PACKAGES, Check, Diagnosis

IMPORT_LIMIT_S: Final = 45.0
"""Enough for an emulated core on a busy host; a board that needs longer is not well."""

KEEP_NS: Final = 10_000_000_000
"""A diagnosis that nobody fetched is not given out after so long: the board has changed."""

_RUNTIME: Final = "import onnxruntime; print('version=' + onnxruntime.__version__)"
_PROBLEM_LENGTH: Final = 300
_KIB: Final = 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Space:
    """Room on a file system for this account, and whether it can be written at all."""

    free_bytes: int
    read_only: bool


def space_of(directory: Path) -> Space | None:
    """None where the directory cannot be asked about."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return Space(found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY))


def this_account() -> Account:
    """Name and groups of the account that this process runs as, as it was logged in."""
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"#{uid}"
    groups = set()
    for gid in {os.getegid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            groups.add(grp.getgrgid(gid).gr_name)
    return Account(user, frozenset(groups), is_root=uid == 0)


def import_runtime(python: str = sys.executable, limit_s: float = IMPORT_LIMIT_S) -> Imported:
    """Import onnxruntime in a process of its own, which may die of it."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _RUNTIME],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Imported(timed_out=True, problem=f"its import did not end within {limit_s:g} s")
    except OSError as exc:
        return Imported(problem=f"cannot run {python}: {exc.strerror}")
    if done.returncode < 0:
        return Imported(signal=-done.returncode)
    said = re.findall(r"^version=(\S+)$", done.stdout.decode(errors="replace"), re.MULTILINE)
    if done.returncode == 0 and said:
        return Imported(version=said[-1])
    words = done.stderr.decode(errors="replace").strip().splitlines()
    problem = words[-1] if words else f"it ended with exit code {done.returncode}"
    return Imported(problem=problem[:_PROBLEM_LENGTH])


def runtime_versions() -> dict[str, str]:
    """Versions of the runtimes that are installed, by package."""
    return versions(tuple(RUNTIME_PACKAGES.values()))


def nobody() -> str | None:
    """The board is free."""
    return None


@dataclass(frozen=True)
class Instruments:
    """How the doctor looks at a board; every part can be replaced in a test."""

    home: Path
    telemetry: Telemetry
    sysroot: Path = Path("/")
    vcgencmd: CommandRunner | None = None
    occupied: Callable[[], str | None] = nobody
    """Why the board must not be disturbed now, or None."""
    import_runtime: Callable[[], Imported] = import_runtime
    versions: Callable[[], Mapping[str, str]] = runtime_versions
    space: Callable[[Path], Space | None] = space_of
    userland: Userland = field(default_factory=this_userland)
    account: Account = field(default_factory=this_account)
    pid: int = field(default_factory=os.getpid)
    tick_hz: int = field(default_factory=lambda: os.sysconf("SC_CLK_TCK"))
    clock: Callable[[], int] = time.monotonic_ns
    utc_ns: Callable[[], int] = time.time_ns
    sleep: Callable[[float], None] = time.sleep


def examine(tools: Instruments) -> tuple[Check, ...]:
    """All checks; takes half a second and the time that the runtime's import needs."""
    root, host, cpu = tools.sysroot, tools.userland, cpu_info(tools.sysroot)
    occupied = tools.occupied()
    load = load_average(root)  # before anything here adds to it
    busy = None if occupied else _busiest(tools)
    reading = tools.telemetry.read(None)
    model = board_text(root, "model")
    total, free = _swap(root)
    space = tools.space(tools.home)
    return (
        checks.userland(host.bits, host.machine),
        checks.instruction_set(host.machine, host.bits, cpu.features),
        checks.runtime(None if occupied else tools.import_runtime(), occupied, cpu.model),
        checks.more_runtimes(tools.versions()),
        heat.governor(_governors(root)),
        heat.power_supply(reading.throttled_bits, _voltage_alarm(root)),
        heat.throttling(reading.throttled_bits),
        heat.vcgencmd(_firmware(tools.vcgencmd), tools.account, model),
        heat.temperature(reading.temp_c, model),
        checks.memory(reading.memory_available_bytes),
        checks.swap(total, free),
        checks.disk(space.free_bytes if space else None, space is not None and space.read_only),
        checks.journals(waiting(tools.home / "trials")),
        checks.other_load(load, host.cpu_count, busy, occupied),
        checks.network(uplink(root)),
        checks.emulation(
            emulated_by(root, host.machine, cpu), known=cpu.model is not None or bool(cpu.features)
        ),
    )


class Doctor:
    """Makes diagnoses for whoever asks; safe to use from several threads."""

    def __init__(self, tools: Instruments) -> None:
        self._tools = tools
        self._mutex = threading.Lock()
        self._working = False
        self._checks: tuple[Check, ...] | None = None
        self._made_ns = 0

    def diagnose(self) -> Diagnosis:
        """What there is; begins a new diagnosis unless one is being made or waits to be fetched."""
        with self._mutex:
            made, self._checks = self._checks, None
            if made is not None and self._tools.clock() - self._made_ns > KEEP_NS:
                made = None
            if made is None and not self._working:
                self._working = True
                threading.Thread(target=self._work, name="doctor", daemon=True).start()
        return Diagnosis(
            complete=made is not None,
            board_utc_ns=self._tools.utc_ns(),
            machine_id=_machine_id(self._tools.sysroot),
            checks=made or (),
        )

    def _work(self) -> None:
        try:
            found = examine(self._tools)
        except Exception as exc:  # noqa: BLE001 - whoever asks must not wait for ever
            _log.exception("a diagnosis failed")
            problem = f"the agent failed: {type(exc).__name__}: {exc}"[:_PROBLEM_LENGTH]
            found = (Check("doctor", "unknown", problem, "log.txt of the agent has more"),)
        with self._mutex:
            self._checks, self._made_ns = found, self._tools.clock()
            self._working = False


def _busiest(tools: Instruments) -> Busy | None:
    return busiest(
        tools.sysroot,
        own_pid=tools.pid,
        clock=tools.clock,
        sleep=tools.sleep,
        tick_hz=tools.tick_hz,
    )


def _governors(root: Path) -> list[str]:
    policies = (root / "sys/devices/system/cpu/cpufreq").glob("policy*")
    found = (read_text(policy, "scaling_governor") for policy in policies)
    return [name for name in found if name is not None]


def _voltage_alarm(root: Path) -> bool | None:
    """The kernel's own watch over the supply: true within seconds of an under-voltage."""
    for directory in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(directory, "name") == "rpi_volt":
            value = read_int(directory, "in0_lcrit_alarm")
            return None if value is None else value != 0
    return None


def _machine_id(root: Path) -> str | None:
    """32 hexadecimal digits; an image that was never started has other words there."""
    text = read_text(root, "etc/machine-id") or ""
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else None


def _firmware(vcgencmd: CommandRunner | None) -> Firmware:
    answers = vcgencmd is not None and parse_throttled(vcgencmd("get_throttled")) is not None
    return Firmware(installed=vcgencmd is not None, answers=answers)


def _swap(root: Path) -> tuple[int | None, int | None]:
    """(total, free) in bytes."""
    text = read_text(root, "proc/meminfo") or ""
    found = dict(re.findall(r"^(SwapTotal|SwapFree):\s+(\d+) kB$", text, re.MULTILINE))
    sizes = [
        int(found[name]) * _KIB if name in found else None for name in ("SwapTotal", "SwapFree")
    ]
    return sizes[0], sizes[1]
