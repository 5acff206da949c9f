"""What `doctor` makes of what it found on a board: one pure function a check (more in agent.heat).

A source that is missing makes a check `unknown`, and its `fix` says what it would take. `fail`
means that the board cannot measure now, or that its times would not be its own; `warn` that they
may be disturbed. Commands to type stand in backticks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agent.admission import JOURNAL_BYTES, WORKER_BYTES
from agent.artifacts import RESERVE_BYTES
from agent.busy import Busy
from agent.fingerprint import instruction_set as isa_of
from agent.network import Uplink
from agent.oldjournals import Waiting
from agent.probe import signal_words
from agent.wire import RUNTIME_PACKAGES, Check

LONGEST_TEXT: Final = 400

BUSY_SHARE: Final = 0.25
"""Of all cores as load, or of one core by a single process: from here it shows in latencies."""

MEMORY_COMFORT_BYTES: Final = 2 * WORKER_BYTES
SWAP_NOTICED_BYTES: Final = 1 << 20
DISK_FLOOR_BYTES: Final = max(JOURNAL_BYTES, RESERVE_BYTES)
"""Below this either no trial starts or no file is taken."""
DISK_COMFORT_BYTES: Final = DISK_FLOOR_BYTES + (512 << 20)

_NAMED_RUNS: Final = 3
_USERLAND_BITS: Final = 64
_REQUIRED: Final = "onnxruntime"
_BAD_RUNTIME: Final = ("1.21.0", ("Cortex-A53", "Cortex-A72"))
"""onnxruntime 1.21.0 uses instructions at import that these cores lack (ONNX Runtime #23957)."""

_MEBIBYTE: Final = 1 << 20

State = Literal["ok", "warn", "fail", "unknown"]


@dataclass(frozen=True)
class Imported:
    """How importing the runtime in a process of its own ended.

    `version` where it worked; else `signal` where that ended it; else `problem` in words.
    """

    version: str | None = None
    signal: int | None = None
    timed_out: bool = False
    problem: str = ""


def userland(bits: int, machine: str) -> Check:
    """There are wheels of onnxruntime for 64-bit userlands only; the kernel's bits say nothing."""
    if bits == _USERLAND_BITS:
        return check("userland", "ok", f"{bits} bits")
    return check(
        "userland",
        "fail",
        f"{bits} bits, on a kernel for {machine}",
        "write a 64-bit Raspberry Pi OS (bookworm or trixie) to its card: onnxruntime is made for "
        "64 bits only",
    )


def instruction_set(machine: str, bits: int, features: Sequence[str]) -> Check:
    """Without a dot product, INT8 kernels need more instructions than they save."""
    name, isa = "instruction set", isa_of(machine, bits, features)
    if isa == "other":
        what = f"{machine} with {bits} bits"
        return check(name, "unknown", what, "models are built for 64-bit Arm and x86 only")
    if not features:
        return check(name, "unknown", isa, "it takes a /proc/cpuinfo that names CPU features")
    if isa.startswith("x86_64"):
        return check(name, "ok", f"x86_64 {'with' if isa != 'x86_64' else 'without'} VNNI")
    fp16 = "fp16" if {"fphp", "asimdhp"} <= set(features) else "no fp16"
    if isa == "aarch64-dotprod":
        return check(name, "ok", f"aarch64 with dot product (asimddp), {fp16}")
    return check(
        name,
        "warn",
        f"aarch64 without dot product (asimddp), {fp16}",
        "nothing to repair: INT8 may be SLOWER than FP32 on these cores, which multiply 8-bit "
        "integers in more steps; let a run decide between the two",
    )


def runtime(found: Imported | None, occupied: str | None, cpu_model: str | None) -> Check:
    """Whether onnxruntime can be imported; it was tried in a process of its own.

    `occupied` says why it was not tried.
    """
    name = "runtime"
    provision = "on the host type `orchestrator boards provision BOARD` with this board's name"
    if found is None:
        why = f"not tried, it would disturb: {occupied}"
        return check(name, "unknown", why, "check again when that has ended")
    bad_version, bad_cores = _BAD_RUNTIME
    weak = any(core in (cpu_model or "") for core in bad_cores)
    if found.version is not None:
        said = f"onnxruntime {found.version}"
        if found.version == bad_version and weak:
            why = f"{said}, known to die on {cpu_model} (illegal instruction)"
            return check(name, "fail", why, f"any other version will do: {provision}")
        return check(name, "ok", said)
    if found.signal is not None:
        words = f"importing onnxruntime was ended by {signal_words(found.signal)}"
        hint = f"version {bad_version} is known for that on {' and '.join(bad_cores)}: "
        return check(name, "fail", words, (hint if weak else "") + provision)
    if found.timed_out:
        return check(
            name, "warn", found.problem, "check again when the board is idle; or its card is worn"
        )
    return check(name, "fail", f"cannot be imported: {found.problem}", provision)


def more_runtimes(versions: Mapping[str, str]) -> Check:
    """Which of the optional runtimes are installed, by package; they are not imported for this."""
    optional = {name: package for name, package in RUNTIME_PACKAGES.items() if name != _REQUIRED}
    said = [
        f"{name} {versions[package]}" if package in versions else f"no {name}"
        for name, package in optional.items()
    ]
    return check("more runtimes", "ok", ", ".join(said))


def memory(available_bytes: int | None) -> Check:
    """Memory that a trial could have without swapping."""
    name = "memory"
    if available_bytes is None:
        return check(name, "unknown", "not shown", "it takes MemAvailable in /proc/meminfo")
    state: State = "ok"
    if available_bytes < MEMORY_COMFORT_BYTES:
        state = "fail" if available_bytes < WORKER_BYTES else "warn"
    found = f"{_mib(available_bytes)} available"
    if state == "ok":
        return check(name, state, found)
    return check(
        name,
        state,
        f"{found}; even a small model needs {_mib(WORKER_BYTES)}",
        "stop other programs; without its desktop it has more: on the board type "
        "`sudo systemctl set-default multi-user.target` and `sudo reboot`",
    )


def swap(total_bytes: int | None, free_bytes: int | None) -> Check:
    """Memory that was swapped out comes back in the middle of a measurement."""
    name = "swap"
    if total_bytes is None or free_bytes is None:
        return check(name, "unknown", "not shown", "it takes SwapTotal in /proc/meminfo")
    used = total_bytes - free_bytes
    if total_bytes == 0:
        return check(name, "ok", "none")
    if used < SWAP_NOTICED_BYTES:
        return check(name, "ok", f"not in use ({_mib(total_bytes)} there)")
    return check(
        name,
        "warn",
        f"{_mib(used)} of {_mib(total_bytes)} in use",
        "memory was short: stop other programs, then on the board type "
        "`sudo swapoff -a && sudo swapon -a`",
    )


def disk(free_bytes: int | None, read_only: bool) -> Check:
    """Room where the agent's home lies."""
    name = "disk"
    if free_bytes is None:
        return check(name, "unknown", "not shown", "it takes a home that can be read")
    found = f"{_mib(free_bytes)} free where the agent's home is"
    if read_only:
        return check(
            name,
            "fail",
            "mounted read-only",
            "often the last sign of a worn card: on the board `dmesg` says why; replace the card, "
            "or switch the overlay file system off in `sudo raspi-config`",
        )
    if free_bytes >= DISK_COMFORT_BYTES:
        return check(name, "ok", found)
    state: State = "fail" if free_bytes < DISK_FLOOR_BYTES else "warn"
    need = f"{_mib(DISK_FLOOR_BYTES)} stay free for journals and the system"
    return check(
        name,
        state,
        f"{found}; {need}",
        "on the board `sudo apt clean` and `df -h` help to make room",
    )


def other_load(
    load: float | None, cpu_count: int, busy: Busy | None, occupied: str | None
) -> Check:
    """What else runs: the load of the last minute against the cores, and who is busiest now."""
    name = "other load"
    if occupied is not None:
        return check(
            name, "unknown", f"not told apart from {occupied}", "check again when that has ended"
        )
    if load is None:
        return check(name, "unknown", "not shown", "it takes /proc/loadavg")
    cores = f"{cpu_count} core{'s' if cpu_count > 1 else ''}"
    found = f"{load:.2f} on {cores} over the last minute"
    if busy is not None:
        found += (
            f"; busiest now: {busy.name} (process {busy.pid}) with {busy.core_share:.0%} of one"
        )
    busy_now = busy is not None and busy.core_share >= BUSY_SHARE
    if load <= BUSY_SHARE * cpu_count and not busy_now:
        return check(name, "ok", found)
    fix = "wait a minute if a run has just ended; else stop what else runs there"
    return check(name, "warn", found, fix)


def network(link: Uplink | None) -> Check:
    """Wi-Fi makes pushes slow; nothing crosses the network while a sample is taken."""
    name = "network"
    if link is None or link.wireless is None:
        found = "no default route" if link is None else f"{link.interface}, not in /sys/class/net"
        return check(name, "unknown", found, "it takes a default route over an interface in /sys")
    if not link.wireless:
        return check(name, "ok", f"{link.interface}, not Wi-Fi")
    return check(
        name,
        "warn",
        f"{link.interface}, Wi-Fi",
        "a cable makes pushes faster; times that are measured are not touched",
    )


def journals(found: Waiting) -> Check:
    """Trials that were measured and that no host has stored."""
    name, runs = "journals", sorted(found.bytes_by_run)
    commands = ", ".join(f"`orchestrator resume {run_id}`" for run_id in runs[:_NAMED_RUNS])
    fix = f"{commands} stores them, on the host that began the run" if runs else ""
    held = f"{found.journals} of {len(runs)} runs wait to be fetched" if runs else "none waits"
    return check(name, "ok", held, fix)


def emulation(emulated_by: str | None, *, known: bool) -> Check:
    """An emulator's times are no speeds; not `known` means that the CPU cannot be recognised."""
    if emulated_by is None and not known:
        fix = "it takes a /proc/cpuinfo that says what the processor is"
        return check("emulated", "unknown", "not known", fix)
    if emulated_by is None:
        return check("emulated", "ok", "no")
    return check(
        "emulated",
        "warn",
        f"by {emulated_by}: it shows that a model runs, not how fast",
        "nothing to repair: its times are marked everywhere and never ranked",
    )


def check(name: str, state: State, found: str, fix: str = "") -> Check:
    """A check without anything to do, unless `fix` says so; files may hold endless text."""
    return Check(name=name, state=state, found=found[:LONGEST_TEXT], fix=fix[:LONGEST_TEXT])


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // _MEBIBYTE} MiB"
