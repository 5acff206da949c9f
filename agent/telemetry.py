"""Temperature, true clock, throttle bits, power and memory of a board, from an injected root.

Which source serves each kind of reading is found once, and named in `Sources`. A source that is
missing, or whose contents make no sense, gives None: never zero, never an exception.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

from agent.procfs import read_int, read_text
from agent.timing import Clock, clock_ns
from agent.wire import Reading, Sources

CommandRunner = Callable[[str], str | None]
"""Runs `vcgencmd` with the given words and returns what it prints; None when it fails."""

COMMAND_INTERVAL_NS: Final = 900_000_000
"""A process is started for a value at most so often, in between the last value stands: processes
disturb the measurement beside them. Just under a second, so one reading a second is a new one."""

_COMMAND_TIMEOUT_S: Final = 2.0
_KIB: Final = 1024

_THERMAL_TYPES: Final = ("cpu-thermal", "soc-thermal", "cpu_thermal", "x86_pkg_temp")
"""Types of thermal zones that mean the CPU, best first; else one with 'cpu' or 'soc', else any."""
_LOWEST_TEMP_C: Final = -55.0
_HIGHEST_TEMP_C: Final = 150.0

_PMIC_RAILS: Final = 12
_PMIC_SLOPE: Final = 1.1451
_PMIC_OFFSET_W: Final = 0.5879
"""Watts of a Raspberry Pi 5 are about slope * sum(V * I) + offset over the 12 rails that its
power chip measures: jfikar's published fit against a wall meter. USB and HATs are not in it."""
PMIC_METHOD: Final = (
    f"measured-pmic: vcgencmd pmic_read_adc, {_PMIC_SLOPE} * sum(V * I) + {_PMIC_OFFSET_W} W"
)

Value = TypeVar("Value", int, float)


@dataclass
class _Source(Generic[Value]):
    """One way to read one kind of value; a slow one keeps its last value for a while."""

    name: str
    take: Callable[[], Value | None]
    interval_ns: int = 0
    _last: Value | None = None
    _taken_ns: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, clock: Clock) -> Value | None:
        """The value now, or the last one where that is younger than the interval."""
        with self._lock:
            now = clock()
            if self._taken_ns is None or now - self._taken_ns >= self.interval_ns:
                self._last, self._taken_ns = self.take(), now
            return self._last


class Telemetry:
    """The readers of one board. `read` may be called from any thread."""

    def __init__(
        self,
        sysroot: Path = Path("/"),
        *,
        vcgencmd: CommandRunner | None = None,
        clock: Clock = clock_ns,
    ) -> None:
        """Find out which sources work; `vcgencmd` defaults to the command on PATH, if any.

        The command belongs to the machine, so a root other than `/` does not use it by itself.
        """
        if vcgencmd is None and sysroot == Path("/"):
            vcgencmd = find_vcgencmd()
        self._root = sysroot
        self._clock = clock
        self._temp = _first(_temp_sources(sysroot))
        self._clock_hz = _first(_clock_sources(sysroot, vcgencmd))
        self._throttled = _first(_throttled_sources(sysroot, vcgencmd))
        self._power = _first(_power_sources(vcgencmd))

    @property
    def sources(self) -> Sources:
        """Where each kind of reading comes from; None where there is no source."""
        return Sources(
            temp=_name(self._temp),
            clock=_name(self._clock_hz),
            throttled=_name(self._throttled),
            power=_name(self._power),
        )

    def read(self, worker_pid: int | None = None) -> Reading:
        """One reading now; `worker_pid` is the process whose resident memory is wanted."""
        return Reading(
            t_ns=self._clock(),
            temp_c=_value(self._temp, self._clock),
            clock_hz=_value(self._clock_hz, self._clock),
            throttled_bits=_value(self._throttled, self._clock),
            memory_available_bytes=_kib(self._root, "proc/meminfo", "MemAvailable"),
            worker_rss_bytes=(
                None
                if worker_pid is None
                else _kib(self._root, f"proc/{worker_pid}/status", "VmRSS")
            ),
            power_w=_value(self._power, self._clock),
        )


def find_vcgencmd() -> CommandRunner | None:
    """Raspberry Pi's firmware tool, or None where it is missing."""
    path = shutil.which("vcgencmd")
    if path is None:
        return None

    def run(words: str) -> str | None:
        try:
            done = subprocess.run(
                [path, *words.split()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_TIMEOUT_S,
                check=True,
                text=True,
                errors="replace",
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    return run


def parse_temp_c(text: str | None) -> float | None:
    """Thousandths of a degree, as thermal zones print them; None outside -55..150 C."""
    try:
        temp_c = int(text or "") / 1000
    except ValueError:
        return None
    return temp_c if _LOWEST_TEMP_C <= temp_c <= _HIGHEST_TEMP_C else None


def parse_clock_hz(text: str | None) -> int | None:
    """`frequency(0)=1500345728`, as `vcgencmd measure_clock arm` prints it."""
    found = re.fullmatch(r"frequency\(\d+\)=(\d+)", (text or "").strip())
    return (int(found[1]) or None) if found else None


def parse_throttled(text: str | None) -> int | None:
    """`throttled=0x50000` of vcgencmd, or the bare hexadecimal digits of sysfs."""
    found = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", (text or "").strip())
    return int(found[1], 16) if found else None


def parse_pmic_w(text: str | None) -> float | None:
    """Watts by the published fit; None unless exactly its 12 rails have volts and amperes."""
    found = re.findall(
        r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(\d+\.\d+)\2$", text or "", re.MULTILINE
    )
    amperes = {rail: float(value) for rail, unit, value in found if unit == "A"}
    volts = {rail: float(value) for rail, unit, value in found if unit == "V"}
    if len(amperes) != _PMIC_RAILS or not amperes.keys() <= volts.keys():
        return None
    return _PMIC_SLOPE * sum(amperes[rail] * volts[rail] for rail in amperes) + _PMIC_OFFSET_W


def _temp_sources(root: Path) -> Iterator[_Source[float]]:
    zones = []
    for directory in (root / "sys/class/thermal").glob("thermal_zone*"):
        kind = read_text(directory, "type") or "unknown"
        number = directory.name.removeprefix("thermal_zone")
        zones.append((_thermal_rank(kind), int(number) if number.isdigit() else 0, kind, directory))
    for _, _, kind, directory in sorted(zones):
        yield _Source(f"{directory.name} ({kind})", partial(_zone_temp_c, directory))


def _zone_temp_c(directory: Path) -> float | None:
    return parse_temp_c(read_text(directory, "temp"))


def _thermal_rank(kind: str) -> int:
    if kind in _THERMAL_TYPES:
        return _THERMAL_TYPES.index(kind)
    means_cpu = "cpu" in kind.lower() or "soc" in kind.lower()
    return len(_THERMAL_TYPES) + (0 if means_cpu else 1)


def _clock_sources(root: Path, vcgencmd: CommandRunner | None) -> Iterator[_Source[int]]:
    if vcgencmd is not None:
        yield _Source(
            "vcgencmd measure_clock arm",
            lambda: parse_clock_hz(vcgencmd("measure_clock arm")),
            COMMAND_INTERVAL_NS,
        )
    # The governor's wish: the firmware's throttling does not show in it, hence the name.
    yield _Source("scaling_cur_freq", lambda: _governor_hz(root))


def _governor_hz(root: Path) -> int | None:
    """The highest frequency of all CPU clusters."""
    policies = (root / "sys/devices/system/cpu/cpufreq").glob("policy*")
    khz = [read_int(policy, "scaling_cur_freq") or 0 for policy in policies]
    return max(khz, default=0) * 1000 or None


def _throttled_sources(root: Path, vcgencmd: CommandRunner | None) -> Iterator[_Source[int]]:
    # Depth differs between boards (Pi 3 and 4: soc/soc:firmware); a file costs no process.
    for depth in ("*", "*/*", "*/*/*"):
        for path in sorted((root / "sys/devices/platform").glob(f"{depth}/get_throttled")):
            yield _Source(f"/{path.relative_to(root)}", partial(_file_throttled, path))
    if vcgencmd is not None:
        yield _Source(
            "vcgencmd get_throttled",
            lambda: parse_throttled(vcgencmd("get_throttled")),
            COMMAND_INTERVAL_NS,
        )


def _file_throttled(path: Path) -> int | None:
    return parse_throttled(read_text(path.parent, path.name))


def _power_sources(vcgencmd: CommandRunner | None) -> Iterator[_Source[float]]:
    if vcgencmd is not None:
        yield _Source(
            PMIC_METHOD, lambda: parse_pmic_w(vcgencmd("pmic_read_adc")), COMMAND_INTERVAL_NS
        )


def _first(sources: Iterator[_Source[Value]]) -> _Source[Value] | None:
    """The first source that gives a value now."""
    return next((source for source in sources if source.take() is not None), None)


def _name(source: _Source[int] | _Source[float] | None) -> str | None:
    return None if source is None else source.name


def _value(source: _Source[Value] | None, clock: Clock) -> Value | None:
    return None if source is None else source.read(clock)


def _kib(root: Path, path: str, name: str) -> int | None:
    """A figure in kB of a file of /proc, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", read_text(root, path) or "", re.MULTILINE)
    return int(found[1]) * _KIB if found else None
