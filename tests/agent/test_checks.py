import shutil
import signal
import stat
from pathlib import Path

import pytest
from support.boardfiles import Ticking, put, stat_line

from agent import checks, doctor, heat
from agent.busy import SAMPLE_S, Busy, busiest, load_average, processes
from agent.checks import Imported
from agent.doctor import import_runtime

GIB = 1 << 30


def test_userland():
    """A 32-bit userland fails, whatever the kernel is, and the way out is named."""
    check = checks.userland(32, "aarch64")
    assert check.state == "fail"
    assert "kernel for aarch64" in check.found
    assert "64-bit Raspberry Pi OS" in check.fix


@pytest.mark.parametrize(
    ("machine", "bits", "features", "state", "words"),
    [
        ("aarch64", 64, ("asimd", "asimddp"), "ok", "no fp16"),
        ("aarch64", 64, ("asimd", "fphp", "asimdhp"), "warn", "asimddp), fp16"),
        ("aarch64", 64, (), "unknown", "aarch64"),
        ("x86_64", 64, ("sse2",), "ok", "without VNNI"),
        ("x86_64", 64, ("sse2", "avx512_vnni"), "ok", "with VNNI"),
        ("aarch64", 32, ("neon",), "unknown", "32 bits"),
        ("riscv64", 64, ("d",), "unknown", "riscv64"),
    ],
)
def test_instruction_set(machine, bits, features, state, words):
    """A CPU's features decide; without any, nothing is claimed."""
    check = checks.instruction_set(machine, bits, features)
    assert check.state == state
    assert words in check.found


@pytest.mark.parametrize("core", ["Cortex-A53", "Cortex-A72"])
def test_runtime_1_21_0_fails_on_old_cores(core):
    """The version that is known to die on A53 and A72 fails there even if it was imported."""
    check = checks.runtime(Imported(version="1.21.0"), None, core)
    assert check.state == "fail"
    assert core in check.found
    assert "boards provision" in check.fix
    assert checks.runtime(Imported(version="1.21.1"), None, core).state == "ok"
    assert checks.runtime(Imported(version="1.21.0"), None, "Cortex-A76").state == "ok"


def test_runtime_ended_by_a_signal():
    """Signal 4 is named for what it is, and on an old core the version known for it."""
    check = checks.runtime(Imported(signal=4), None, "Cortex-A53")
    assert check.state == "fail"
    assert "signal 4 (SIGILL, illegal instruction on this CPU)" in check.found
    assert "1.21.0" in check.fix
    assert "1.21.0" not in checks.runtime(Imported(signal=11), None, "Cortex-A76").fix


def script(folder, body):
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("kill -ILL $$", Imported(signal=signal.SIGILL)),
        ("kill -SEGV $$", Imported(signal=signal.SIGSEGV)),
        ("echo noise; echo version=1.31.1", Imported(version="1.31.1")),
        ("echo 'ImportError: no wheel' >&2; exit 1", Imported(problem="ImportError: no wheel")),
        ("exit 3", Imported(problem="it ended with exit code 3")),
        ("exit 0", Imported(problem="it ended with exit code 0")),
        ("printf '\\377\\376\\n' >&2; exit 1", Imported(problem="��")),
    ],
)
def test_the_import_runs_in_a_process_of_its_own(tmp_path, body, expected):
    """However the importing process ends, this one lives and knows why."""
    assert import_runtime(script(tmp_path, body)) == expected


def test_an_import_that_hangs_is_given_up(tmp_path):
    """An import without end is ended, and is a warning to check again."""
    made = import_runtime(script(tmp_path, "exec sleep 60"), limit_s=0.2)
    assert made.timed_out
    check = checks.runtime(made, None, None)
    assert (check.state, check.found) == ("warn", "its import did not end within 0.2 s")


def test_no_python_at_all(tmp_path):
    """An interpreter that cannot be run is a reason in words."""
    assert "cannot run" in import_runtime(str(tmp_path / "absent")).problem


@pytest.mark.parametrize(
    ("bits", "alarm", "state", "words"),
    [
        (0x0, None, "ok", "now and since"),
        (0x0, False, "ok", "now and since"),
        (0x1, False, "fail", "now"),
        (0x50001, None, "fail", "now"),
        (0x0, True, "fail", "now"),
        (None, True, "fail", "now"),
        (None, False, "ok", "not known"),
        (0x10000, False, "warn", "since the board started, not now"),
        (0xE000E, None, "ok", "no under-voltage"),
        (None, None, "unknown", "cannot be asked"),
    ],
)
def test_power_supply(bits, alarm, state, words):
    """Under-voltage now fails, earlier warns, whichever of the two sources knows of it."""
    check = heat.power_supply(bits, alarm)
    assert (check.state, bool(check.fix)) == (state, state != "ok")
    assert words in check.found


@pytest.mark.parametrize(
    ("bits", "state", "now", "before"),
    [
        (0x0, "ok", "", ""),
        (0x10001, "ok", "", ""),
        (0x2, "fail", "now: frequency capped", ""),
        (0x4, "fail", "now: throttled", ""),
        (0x8, "warn", "now: soft temperature limit", ""),
        (0x20000, "warn", "", "since the board started: frequency capped"),
        (0x40000, "warn", "", "since the board started: throttled"),
        (0x80000, "warn", "", "since the board started: soft temperature limit"),
        (0xE0006, "fail", "now: frequency capped, throttled", "soft temperature limit"),
    ],
)
def test_throttling(bits, state, now, before):
    """Each bit is told in words, apart for now and since the start; being slowed now fails."""
    check = heat.throttling(bits)
    assert check.state == state
    assert now in check.found
    assert before in check.found
    assert (f"0x{bits:x}" in check.found) == (state != "ok")
    assert ("power supply" in check.fix) == bool(check.fix and bits & 0x10001)


def test_throttling_from_a_bad_supply_names_the_supply_first():
    """Bit 2 can come from low voltage, so then the supply is to be looked at first."""
    assert heat.throttling(0x50005).fix.startswith("first the power supply")


@pytest.mark.parametrize(
    ("mib", "state"), [(100, "fail"), (149, "fail"), (151, "warn"), (299, "warn"), (301, "ok")]
)
def test_memory(mib, state):
    """Below what a worker needs fails, just above it warns."""
    assert checks.memory(mib << 20).state == state


@pytest.mark.parametrize(
    ("total", "free", "state"),
    [
        (0, 0, "ok"),
        (100 << 20, 100 << 20, "ok"),
        (100 << 20, 98 << 20, "warn"),
        (5, None, "unknown"),
    ],
)
def test_swap(total, free, state):
    """Swap that is there is well; swap in use warns."""
    assert checks.swap(total, free).state == state


@pytest.mark.parametrize(
    ("free", "read_only", "state"),
    [
        (10 * GIB, False, "ok"), (700 << 20, False, "warn"), (100 << 20, False, "fail"),
        (10 * GIB, True, "fail"), (None, False, "unknown"),
    ],
)  # fmt: skip
def test_disk(free, read_only, state):
    """A full card and one that fell back to read-only fail; little room warns."""
    assert checks.disk(free, read_only).state == state


def test_disk_of_this_machine(tmp_path):
    """The room of a real directory is its file system's, and an absent one has none."""
    real = doctor.space_of(tmp_path)
    assert real is not None
    assert abs(real.free_bytes - shutil.disk_usage(tmp_path).free) < GIB
    assert not real.read_only
    assert doctor.space_of(tmp_path / "absent") is None


def test_a_process_id_that_was_used_again_is_another_process(tmp_path):
    """Ticks of a new process are not compared with those of its predecessor."""
    put(tmp_path, "proc/7/stat", stat_line(7, "old", 0, 10, started=1))
    clock = Ticking(lambda: put(tmp_path, "proc/7/stat", stat_line(7, "new", 0, 50, started=2)))
    seen = busiest(tmp_path, own_pid=1, clock=clock, sleep=clock.sleep, tick_hz=100)
    assert seen is None


def test_processes_in_a_circle_do_not_hang(tmp_path):
    """Parents that are each other's, as a moving snapshot may show, are no endless loop."""
    put(tmp_path, "proc/7/stat", stat_line(7, "a", 8, 10))
    put(tmp_path, "proc/8/stat", stat_line(8, "b", 7, 10))
    clock = Ticking(lambda: put(tmp_path, "proc/7/stat", stat_line(7, "a", 8, 20)))
    seen = busiest(tmp_path, own_pid=1, clock=clock, sleep=clock.sleep, tick_hz=100)
    assert seen is not None
    assert (seen.name, seen.core_share) == ("a", pytest.approx(0.1 / SAMPLE_S))


def test_this_machine_has_processes_and_a_load():
    """The files of a real kernel can be read: this very test is among its processes."""
    assert load_average(Path("/")) is not None
    assert any("python" in one.name for one in processes(Path("/")).values())


@pytest.mark.parametrize(
    ("load", "share", "state"),
    [(0.9, 0.0, "ok"), (1.1, 0.0, "warn"), (0.1, 0.3, "warn"), (0.1, 0.2, "ok")],
)
def test_other_load(load, share, state):
    """A quarter of the cores over a minute, or a quarter of one core now, warns."""
    assert checks.other_load(load, 4, Busy(9, "x", share), None).state == state
