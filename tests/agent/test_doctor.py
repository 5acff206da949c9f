import threading
import time
from pathlib import Path

import pytest
from support.agentkit import agent_process, wait_until
from support.boardfiles import Ticking, put, stat_line

from agent import doctor, wire
from agent.checks import Imported
from agent.doctor import Doctor, Instruments, Space, examine
from agent.fingerprint import Userland
from agent.heat import Account
from agent.network import Uplink, uplink
from agent.telemetry import Telemetry

ROOT = Path(doctor.__file__).parents[1]
GIB = 1 << 30
V8 = "fp asimd evtstrm crc32 cpuid"
V8_2 = "fp asimd aes sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp"
CPUINFO = (
    "processor\t: 0\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: 0x{part}\n\n"
)
ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
SOLE = "{name}\t00000000\t0101A8C0\t0003\t0\t0\t{metric}\t00000000\t0\t0\t0\n"
NAMES = (
    "userland", "instruction set", "runtime", "more runtimes", "governor", "power supply",
    "throttling", "vcgencmd", "temperature", "memory", "swap", "disk", "journals",
    "other load", "network", "emulated",
)  # fmt: skip


def meminfo(available_mib, swap_mib=0, swap_free_mib=0):
    return (
        f"MemTotal: 8245680 kB\nMemAvailable: {available_mib * 1024} kB\n"
        f"SwapTotal: {swap_mib * 1024} kB\nSwapFree: {swap_free_mib * 1024} kB\n"
    )


def board(root, *, model, features, part, temp):
    """The files that every check reads, as a healthy idle board has them."""
    put(root, "proc/device-tree/model", model)
    put(root, "proc/cpuinfo", CPUINFO.format(features=features, part=part) * 4)
    put(root, "proc/meminfo", meminfo(700, 200, 200))
    put(root, "proc/loadavg", "0.05 0.10 0.09 1/120 900\n")
    put(root, "proc/net/route", ROUTES + SOLE.format(name="eth0", metric=100))
    (root / "sys/class/net/eth0").mkdir(parents=True)
    put(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    put(root, "sys/class/thermal/thermal_zone0/temp", f"{temp}\n")
    put(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n")
    put(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    return root


@pytest.fixture
def pi3(tmp_path):
    """A Raspberry Pi 3B+: throttle bits and the voltage alarm are files."""
    model = "Raspberry Pi 3 Model B Plus Rev 1.3\0"
    root = board(tmp_path / "pi3", model=model, features=V8, part="d03", temp=47236)
    put(root, "sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
    put(root, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    put(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    return root


@pytest.fixture
def pi5(tmp_path):
    """A Raspberry Pi 5: throttle bits come from vcgencmd."""
    model = "Raspberry Pi 5 Model B Rev 1.0\0"
    return board(tmp_path / "pi5", model=model, features=V8_2, part="d0b", temp=48312)


def firmware(bits):
    """A vcgencmd that knows the throttle bits."""
    return lambda words: f"throttled={bits}\n" if words == "get_throttled" else None


GOOD = firmware("0x0")


def tools(root, *, vcgencmd=GOOD, clock=None, **others):
    clock = clock or Ticking()
    userland = Userland("aarch64", 64, "pi", "6.6.31", "glibc 2.36", "3.11.2", 4)
    given = {
        "home": root, "telemetry": Telemetry(root, vcgencmd=vcgencmd), "sysroot": root,
        "vcgencmd": vcgencmd, "import_runtime": lambda: Imported(version="1.31.1"),
        "space": lambda _: Space(20 * GIB, read_only=False), "userland": userland,
        "account": Account("pi", frozenset({"pi", "video"})), "pid": 1, "tick_hz": 100,
        "clock": clock, "sleep": clock.sleep, "utc_ns": lambda: 7,
    }  # fmt: skip
    return Instruments(**(given | others))


def found(instruments):
    made = examine(instruments)
    assert tuple(check.name for check in made) == NAMES
    return {check.name: check for check in made}


def states(made, *but):
    return {check.state for check in made.values() if check.name not in but}


def test_a_good_raspberry_pi_5_is_ok_in_every_check(pi5):
    """A well-powered, cool, idle Pi 5 on a cable has no fault and nothing to do."""
    made = found(tools(pi5))
    assert states(made) == {"ok"}
    assert {check.fix for check in made.values()} == {""}
    assert made["instruction set"].found == "aarch64 with dot product (asimddp), fp16"


def test_a_good_raspberry_pi_3b_plus_warns_of_its_instruction_set_only(pi3):
    """A healthy 3B+ has one warning: INT8 may be slower there, with the reason."""
    made = found(tools(pi3))
    assert states(made, "instruction set") == {"ok"}
    warned = made["instruction set"]
    assert warned.state == "warn"
    assert "without dot product" in warned.found
    assert "no fp16" in warned.found
    assert "SLOWER than FP32" in warned.fix


def test_a_bad_raspberry_pi_3b_plus(pi3):
    """Under-voltage, heat, swap, a full card, Wi-Fi and a wrong governor each have a fix."""
    put(pi3, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    put(pi3, "sys/class/thermal/thermal_zone0/temp", "61200\n")
    put(pi3, "proc/meminfo", meminfo(160, 200, 150))
    put(pi3, "proc/loadavg", "2.50 1.00 0.50 3/120 900\n")
    put(pi3, "proc/net/route", ROUTES + SOLE.format(name="wlan0", metric=600))
    (pi3 / "sys/class/net/wlan0/wireless").mkdir(parents=True)
    put(pi3, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "ondemand\n")
    made = found(tools(pi3, space=lambda _: Space(200 << 20, read_only=False)))
    worst = {name: check.state for name, check in made.items() if check.state != "ok"}
    assert worst == {
        "instruction set": "warn", "governor": "warn", "power supply": "fail",
        "throttling": "fail", "temperature": "warn", "memory": "warn", "swap": "warn",
        "disk": "fail", "other load": "warn", "network": "warn",
    }  # fmt: skip
    assert all(made[name].fix for name in worst)
    assert "61.2 °C, above the 60 °C" in made["temperature"].found
    assert made["swap"].found == "50 MiB of 200 MiB in use"


def test_the_same_heat_is_no_fault_of_a_raspberry_pi_5(pi5):
    """Only the models with a soft limit warn from 60 C; the others from 80 C."""
    put(pi5, "sys/class/thermal/thermal_zone0/temp", "79900\n")
    assert found(tools(pi5))["temperature"].state == "ok"
    put(pi5, "sys/class/thermal/thermal_zone0/temp", "80100\n")
    assert found(tools(pi5))["temperature"].state == "warn"


def test_an_empty_root_is_unknown_and_never_ok(tmp_path):
    """Where no source exists each check is unknown and says what it would take."""
    made = found(tools(tmp_path, vcgencmd=None, space=lambda _: None))
    known = ("userland", "runtime", "more runtimes", "journals")
    assert states(made, *known) == {"unknown"}
    assert all(made[name].fix for name in NAMES if name not in known)


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe\0" * 40, b"-1\n", b"a" * 100_000, b"0 (x) R"])
def test_garbage_in_every_file_is_no_exception(pi3, garbage):
    """Whatever stands in the files, a diagnosis is made, and it can be sent."""
    put(pi3, "proc/77/stat", "x")
    for path in [path for path in pi3.rglob("*") if path.is_file()]:
        path.write_bytes(garbage)
    made = found(tools(pi3))
    assert made["memory"].state == "unknown"
    for check in made.values():
        assert wire.decode(wire.encode(check), wire.Check) == check


def test_runtime_is_not_tried_beside_a_measurement(pi5):
    """While the board is leased nothing is imported and no load is told; the rest is checked."""

    def never():
        raise AssertionError("it would disturb")

    made = found(tools(pi5, occupied=lambda: "ann measures here", import_runtime=never))
    assert states(made, "runtime", "other load") == {"ok"}
    for name in ("runtime", "other load"):
        assert made[name].state == "unknown"
        assert "ann measures here" in made[name].found


def test_governor(pi5):
    """One cluster with another governor is enough for a warning; the command is whole."""
    put(pi5, "sys/devices/system/cpu/cpufreq/policy4/scaling_governor", "powersave\n")
    check = found(tools(pi5))["governor"]
    assert check.state == "warn"
    assert check.found.startswith("performance, powersave:")
    command = (
        "`echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor`"
    )
    assert command in check.fix


@pytest.mark.parametrize(
    ("answer", "groups", "root", "state", "words"),
    [
        ("throttled=0x0", set(), False, "ok", ""),
        (None, {"pi"}, False, "warn", "`sudo usermod -aG video 'p i'`"),
        ("VCHI initialization failed", {"pi"}, False, "warn", "usermod"),
        (None, {"pi", "video"}, False, "warn", "`vcgencmd get_throttled` says why"),
        (None, set(), True, "warn", "`vcgencmd get_throttled` says why"),
    ],
)
def test_vcgencmd(pi5, answer, groups, root, state, words):
    """A tool that refuses because of a group is told with the command to type, quoted."""
    account = Account("p i", frozenset(groups), is_root=root)
    check = found(tools(pi5, vcgencmd=lambda _: answer, account=account))["vcgencmd"]
    assert check.state == state
    assert words in check.fix


def test_vcgencmd_is_missed_on_a_raspberry_pi_only(pi5, tmp_path):
    """A Pi without the tool is told how to get it; another board cannot have it."""
    missing = found(tools(pi5, vcgencmd=None))
    assert missing["vcgencmd"].state == "warn"
    assert "apt install" in missing["vcgencmd"].fix
    assert missing["throttling"].state == missing["power supply"].state == "unknown"
    assert found(tools(tmp_path, vcgencmd=None))["vcgencmd"].state == "unknown"


def test_the_busiest_other_process_is_named(pi5):
    """Who runs beside us is named with its share of a core; we and our children are not."""
    put(pi5, "proc/1/stat", stat_line(1, "agent", 0, 50))
    put(pi5, "proc/2/stat", stat_line(2, "worker", 1, 50))
    put(pi5, "proc/3/stat", stat_line(3, "bad) R (name", 0, 1000))
    put(pi5, "proc/4/stat", stat_line(4, "idle", 0, 90_000))

    def work():
        put(pi5, "proc/1/stat", stat_line(1, "agent", 0, 99))
        put(pi5, "proc/2/stat", stat_line(2, "worker", 1, 99))
        put(pi5, "proc/3/stat", stat_line(3, "bad) R (name", 0, 1020))
        put(pi5, "proc/5/stat", stat_line(5, "newborn", 0, 40))

    check = found(tools(pi5, clock=Ticking(work)))["other load"]
    assert check.state == "warn"
    assert "bad) R (name (process 3) with 40% of one" in check.found


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        (SOLE.format(name="eth0", metric=0), Uplink("eth0", wireless=False)),
        (
            SOLE.format(name="wlan0", metric=600) + SOLE.format(name="eth0", metric=100),
            Uplink("eth0", wireless=False),
        ),
        (
            SOLE.format(name="wlan0", metric=100) + SOLE.format(name="eth0", metric=600),
            Uplink("wlan0", wireless=True),
        ),
        (SOLE.format(name="tun9", metric=1), Uplink("tun9", wireless=None)),
        (SOLE.format(name="../../x", metric=1), None),
        (SOLE.format(name="eth0", metric="-1"), None),
        ("eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", None),
    ],
)
def test_uplink(pi5, routes, expected):
    """The default route with the lowest metric decides; nothing else is a way out."""
    (pi5 / "sys/class/net/wlan0/phy80211").mkdir(parents=True)
    put(pi5, "proc/net/route", ROUTES + routes)
    assert uplink(pi5) == expected


def test_uplink_over_ipv6_alone(pi5):
    """A board without IPv4 is known by its default route of IPv6, the unreachable one left out."""
    zeros = "0" * 32
    (pi5 / "proc/net/route").unlink()
    put(
        pi5,
        "proc/net/ipv6_route",
        f"{zeros} 00 {zeros} 00 {'f' * 32} 00000400 00000001 00000000 00000003     eth0\n"
        f"{zeros} 00 {zeros} 00 {zeros} 00000001 00000001 00000000 00200200       lo\n",
    )
    assert uplink(pi5) == Uplink("eth0", wireless=False)


def test_an_emulated_board_is_told_so(pi5):
    """A board under an emulator warns that its times are no speeds."""
    put(pi5, "sys/class/dmi/id/sys_vendor", "QEMU\n")
    check = found(tools(pi5))["emulated"]
    assert (check.state, "QEMU TCG" in check.found) == ("warn", True)


def fetch(made):
    """What the host does: ask until it is complete."""
    diagnoses = [made.diagnose()]
    wait_until(lambda: diagnoses.append(made.diagnose()) or diagnoses[-1].complete)
    return diagnoses


def test_no_call_waits_for_a_slow_check(pi5):
    """The first call begins and returns; the diagnosis comes whole, once, when it is made."""
    gate = threading.Event()
    slow = tools(pi5, import_runtime=lambda: gate.wait(10) and Imported(version="1"))
    made = Doctor(slow)
    began = time.monotonic()
    first = made.diagnose()
    assert time.monotonic() - began < 5
    assert (first.complete, first.checks, first.board_utc_ns) == (False, (), 7)
    assert first.machine_id == "0123456789abcdef0123456789abcdef"
    gate.set()
    last = fetch(made)[-1]
    assert tuple(check.name for check in last.checks) == NAMES
    assert not made.diagnose().complete


def test_one_examination_at_a_time(pi5):
    """Several hosts that ask at once share the one examination that is being made."""
    begun, gate = [], threading.Event()

    def slow():
        begun.append(1)
        gate.wait(10)
        return Imported(version="1")

    made = Doctor(tools(pi5, import_runtime=slow))
    for _ in range(5):
        assert not made.diagnose().complete
    gate.set()
    fetch(made)
    assert len(begun) == 1


def test_an_old_diagnosis_is_not_given_out(pi5):
    """What nobody fetched in time is made anew: the board has changed since."""
    clock, count = Ticking(), []
    imported = Imported(version="1")
    made = Doctor(tools(pi5, clock=clock, import_runtime=lambda: count.append(1) or imported))
    made.diagnose()
    wait_until(lambda: made._checks is not None)
    clock.now_ns += doctor.KEEP_NS + 1
    assert not made.diagnose().complete
    fetch(made)
    assert len(count) >= 2


def test_a_fault_of_the_doctor_is_a_finding(pi5):
    """An unforeseen error ends the examination with its name instead of leaving all to wait."""

    def fail():
        raise ZeroDivisionError("odd")

    (check,) = fetch(Doctor(tools(pi5, import_runtime=fail)))[-1].checks
    assert (check.name, check.state) == ("doctor", "unknown")
    assert "ZeroDivisionError: odd" in check.found


@pytest.mark.parametrize("text", ["uninitialized\n", "", "0" * 31, "0" * 33])
def test_a_machine_id_is_32_digits(pi5, text):
    """An image that was never started has no machine id to compare."""
    put(pi5, "etc/machine-id", text)
    assert Doctor(tools(pi5)).diagnose().machine_id is None


def test_a_real_agent_diagnoses_this_machine(tmp_path):
    """Over a real connection every check is made on this machine, the runtime's import included."""
    with agent_process(tmp_path) as process:
        talk = process.talk()
        diagnosis = talk.ok(wire.Diagnosis, "doctor")
        assert not diagnosis.complete
        deadline = time.monotonic() + 60
        while not diagnosis.complete:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            diagnosis = talk.ok(wire.Diagnosis, "doctor")
        made = {check.name: check for check in diagnosis.checks}
        assert tuple(made) == NAMES
        assert made["runtime"].state == "ok"
        assert made["runtime"].found.startswith("onnxruntime 1.")
        assert abs(diagnosis.board_utc_ns - time.time_ns()) < 60e9
        talk.close()


def test_a_real_agent_that_is_leased_is_left_alone(tmp_path):
    """While a run holds the board, its agent says who does instead of importing a runtime."""
    with agent_process(tmp_path) as process:
        talk = process.talk()
        talk.ok(wire.LeaseInfo, "lease", wire.encode(wire.LeaseRequest("ann", "run-1", 30.0)))
        diagnosis = talk.ok(wire.Diagnosis, "doctor")
        deadline = time.monotonic() + 60
        while not diagnosis.complete:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            diagnosis = talk.ok(wire.Diagnosis, "doctor")
        (runtime,) = [check for check in diagnosis.checks if check.name == "runtime"]
        assert runtime.state == "unknown"
        assert "ann measures here (run run-1)" in runtime.found
        talk.close()


def test_every_check_is_documented():
    """The document of the checks names each of them, and the host's own."""
    text = (ROOT / "docs/boards-check.md").read_text()
    for name in (*NAMES, "clock"):
        assert f"| {name} |" in text, name
