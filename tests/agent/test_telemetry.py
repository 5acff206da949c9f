import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import telemetry
from agent.telemetry import (
    PMIC_METHOD,
    Telemetry,
    find_vcgencmd,
    parse_clock_hz,
    parse_pmic_w,
    parse_temp_c,
    parse_throttled,
)

RAILS = {
    "3V7_WL_SW": (0.0780, 3.7032),
    "3V3_SYS": (0.0468, 3.3126),
    "1V8_SYS": (0.1502, 1.8017),
    "DDR_VDD2": (0.0029, 1.1015),
    "DDR_VDDQ": (0.0, 0.6061),
    "1V1_SYS": (0.1893, 1.1073),
    "0V8_SW": (0.3054, 0.8051),
    "VDD_CORE": (0.7060, 0.7213),
    "3V3_DAC": (0.0001, 3.3093),
    "3V3_ADC": (0.0001, 3.3106),
    "0V8_AON": (0.0042, 0.7991),
    "HDMI": (0.0134, 5.1236),
}
MEMINFO = "MemTotal:        8245000 kB\nMemFree:  100 kB\nMemAvailable:    7000000 kB\n"


def pmic_text(rails=RAILS):
    """What `vcgencmd pmic_read_adc` prints on a Raspberry Pi 5."""
    lines = [
        f"{name + '_A':>14} current({i})={amp:.8f}A"
        for i, (name, (amp, _)) in enumerate(rails.items())
    ]
    lines += [
        f"{name + '_V':>14} volt({i + 8})={v:.8f}V"
        for i, (name, (_, v)) in enumerate(rails.items())
    ]
    return "\n".join(
        [*lines, "     EXT5V_V volt(24)=5.14604000V", "      BATT_V volt(25)=0.00000000V", ""]
    )


class FakeClock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class FakeFirmware:
    """A vcgencmd with settable answers that counts how often it is started."""

    def __init__(self, **answers):
        self.answers = {name.replace("__", " "): text for name, text in answers.items()}
        self.calls = []

    def __call__(self, words):
        self.calls.append(words)
        return self.answers.get(words)


def put(root, path, text):
    file = Path(root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def zone(root, number, kind, temp):
    put(root, f"sys/class/thermal/thermal_zone{number}/type", f"{kind}\n")
    return put(root, f"sys/class/thermal/thermal_zone{number}/temp", f"{temp}\n")


@pytest.fixture
def pi4(tmp_path):
    """A board with every file source, as a Raspberry Pi 4 has them."""
    zone(tmp_path, 0, "cpu-thermal", 48312)
    put(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1500000\n")
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    put(tmp_path, "proc/meminfo", MEMINFO)
    put(tmp_path, "proc/77/status", "Name:\tpython\nVmHWM:\t  900 kB\nVmRSS:\t  512 kB\n")
    return tmp_path


def test_every_file_source_is_read_and_named(pi4):
    """A board with all the files gives every figure in its unit and says where it came from."""
    board = Telemetry(pi4, clock=lambda: 123)
    assert board.sources.temp == "thermal_zone0 (cpu-thermal)"
    assert board.sources.clock == "scaling_cur_freq"
    assert board.sources.throttled == "/sys/devices/platform/soc/soc:firmware/get_throttled"
    assert board.sources.power is None
    reading = board.read(77)
    assert reading.t_ns == 123
    assert reading.temp_c == 48.312
    assert reading.clock_hz == 1_500_000_000
    assert reading.throttled_bits == 0x50005
    assert reading.memory_available_bytes == 7_000_000 * 1024
    assert reading.worker_rss_bytes == 512 * 1024
    assert reading.power_w is None


def test_a_machine_without_sensors_gives_none(tmp_path):
    """Where nothing exists every source and every figure is None, never zero."""
    board = Telemetry(tmp_path, clock=lambda: 5)
    assert set(vars_of(board.sources).values()) == {None}
    figures = vars_of(board.read(77))
    assert figures.pop("t_ns") == 5
    assert set(figures.values()) == {None}


def vars_of(message):
    return {name: getattr(message, name) for name in message.__struct_fields__}


def test_the_cpu_zone_is_preferred(tmp_path):
    """Of several thermal zones the CPU's is read, whatever its number."""
    zone(tmp_path, 0, "wifi", 60000)
    zone(tmp_path, 2, "soc-thermal", 50000)
    zone(tmp_path, 10, "cpu-thermal", 40000)
    assert Telemetry(tmp_path).read().temp_c == 40.0
    assert Telemetry(tmp_path).sources.temp == "thermal_zone10 (cpu-thermal)"


def test_a_zone_that_cannot_be_read_is_passed_over(tmp_path):
    """The best zone that gives a sensible value is the source."""
    zone(tmp_path, 0, "cpu-thermal", "nonsense")
    zone(tmp_path, 1, "gpu", 45000)
    zone(tmp_path, 2, "big-cpu", 47000)
    assert Telemetry(tmp_path).read().temp_c == 47.0


def test_a_source_that_breaks_later_gives_none(pi4):
    """Values that vanish or turn to garbage between readings become None, not an exception."""
    board = Telemetry(pi4)
    for path in ("sys/class/thermal/thermal_zone0/temp", "proc/meminfo", "proc/77/status"):
        put(pi4, path, b"\xff\x00garbage")
    put(pi4, "sys/devices/platform/soc/soc:firmware/get_throttled", "xyz")
    (pi4 / "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq").unlink()
    figures = vars_of(board.read(77))
    del figures["t_ns"]
    assert set(figures.values()) == {None}
    assert board.sources.temp is not None


def test_a_worker_that_is_gone_has_no_memory(pi4):
    """The resident memory of a process that does not exist is None."""
    assert Telemetry(pi4).read(78).worker_rss_bytes is None
    assert Telemetry(pi4).read(None).worker_rss_bytes is None


def test_the_firmware_is_believed_before_the_governor(pi4):
    """The true clock comes from vcgencmd; throttle bits come from the file, which is cheaper."""
    firmware = FakeFirmware(
        measure_clock__arm="frequency(0)=1200126976\n", get_throttled="throttled=0x0\n"
    )
    board = Telemetry(pi4, vcgencmd=firmware)
    assert board.sources.clock == "vcgencmd measure_clock arm"
    assert board.read().clock_hz == 1_200_126_976
    assert board.read().throttled_bits == 0x50005
    assert "get_throttled" not in firmware.calls


def test_a_pi5_tells_power_and_throttling_through_the_firmware(tmp_path):
    """Power is the published fit over the power chip's rails, and its method is in the source."""
    firmware = FakeFirmware(
        measure_clock__arm="frequency(0)=2400033792",
        get_throttled="throttled=0xe0000",
        pmic_read_adc=pmic_text(),
    )
    board = Telemetry(tmp_path, vcgencmd=firmware)
    watts = sum(amp * volt for amp, volt in RAILS.values())
    assert board.read().power_w == pytest.approx(1.1451 * watts + 0.5879)
    assert board.read().throttled_bits == 0xE0000
    assert board.sources.power == PMIC_METHOD
    assert board.sources.power.startswith("measured-pmic")
    assert board.sources.throttled == "vcgencmd get_throttled"


def test_a_board_without_current_sensing_has_no_power(tmp_path):
    """A Raspberry Pi 4 refuses the command, so power has no source."""
    firmware = FakeFirmware(measure_clock__arm="frequency(48)=1500345728")
    board = Telemetry(tmp_path, vcgencmd=firmware)
    assert board.sources.power is None
    assert board.read().power_w is None


def test_a_process_is_started_at_most_once_a_second(tmp_path):
    """Readings within a second repeat the firmware's last value; files are always read anew."""
    temp = zone(tmp_path, 0, "cpu-thermal", 40000)
    firmware = FakeFirmware(measure_clock__arm="frequency(0)=1500000000")
    clock = FakeClock()
    board = Telemetry(tmp_path, vcgencmd=firmware, clock=clock)
    firmware.calls.clear()
    assert board.read().clock_hz == 1_500_000_000
    firmware.answers["measure_clock arm"] = "frequency(0)=600000000"
    temp.write_text("41000")
    clock.now = 800_000_000
    assert (board.read().clock_hz, board.read().temp_c) == (1_500_000_000, 41.0)
    assert firmware.calls == ["measure_clock arm"]
    clock.now = 1_000_000_000
    assert board.read().clock_hz == 600_000_000


def test_the_highest_clock_of_all_clusters_counts(tmp_path):
    """With several clusters of cores the fastest one's frequency is given."""
    for number, khz in enumerate((600_000, 1_800_000)):
        path = f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_cur_freq"
        put(tmp_path, path, str(khz))
    assert Telemetry(tmp_path).read().clock_hz == 1_800_000_000


def test_another_root_never_asks_this_machine(tmp_path, monkeypatch):
    """With an injected root the vcgencmd of the machine itself is not used."""
    monkeypatch.setattr(
        telemetry, "find_vcgencmd", lambda: FakeFirmware(measure_clock__arm="frequency(0)=5")
    )
    assert Telemetry(tmp_path).sources.clock is None


def vcgencmd_on_path(tmp_path, monkeypatch, script):
    command = put(tmp_path, "bin/vcgencmd", f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return find_vcgencmd()


def test_the_command_on_path_is_run(tmp_path, monkeypatch):
    """A real vcgencmd is found on PATH and its words are passed on."""
    run = vcgencmd_on_path(tmp_path, monkeypatch, 'echo "$# $*"')
    assert run("measure_clock arm") == "2 measure_clock arm\n"


@pytest.mark.parametrize("script", ["echo oops; exit 255", "kill -9 $$", "exec sleep 30"])
def test_a_command_that_fails_or_hangs_gives_none(tmp_path, monkeypatch, script):
    """An error, a crash or a hang of vcgencmd is no value."""
    monkeypatch.setattr(telemetry, "_COMMAND_TIMEOUT_S", 0.2)
    assert vcgencmd_on_path(tmp_path, monkeypatch, script)("get_throttled") is None


def test_no_command_on_path_means_no_firmware(tmp_path, monkeypatch):
    """Without vcgencmd there is no runner at all."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_vcgencmd() is None


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_temp_c, "45277\n", 45.277),
        (parse_temp_c, "-5000", -5.0),
        (parse_temp_c, "0", 0.0),
        (parse_temp_c, "-274000", None),
        (parse_temp_c, "999999", None),
        (parse_temp_c, "45.2", None),
        (parse_temp_c, "", None),
        (parse_temp_c, None, None),
        (parse_clock_hz, "frequency(48)=600117184\n", 600_117_184),
        (parse_clock_hz, "frequency(0)=0", None),
        (parse_clock_hz, 'error=1 error_msg="Command not registered"', None),
        (parse_clock_hz, None, None),
        (parse_throttled, "throttled=0x50000\n", 0x50000),
        (parse_throttled, "throttled=0x0", 0),
        (parse_throttled, "0", 0),
        (parse_throttled, "e0008", 0xE0008),
        (parse_throttled, "throttled=", None),
        (parse_throttled, "-1", None),
        (parse_throttled, "123456789", None),
        (parse_throttled, None, None),
        (parse_pmic_w, "", None),
        (parse_pmic_w, None, None),
    ],
)
def test_texts_of_boards_are_read_or_refused(parse, text, value):
    """Known outputs give their value, everything else gives None."""
    assert parse(text) == value


@pytest.mark.parametrize("lost", ["VDD_CORE_A", "VDD_CORE_V"])
def test_power_needs_all_rails(lost):
    """With a rail's volts or amperes missing there is no power figure, not a smaller one."""
    lines = [line for line in pmic_text().splitlines() if lost not in line]
    assert parse_pmic_w("\n".join(lines)) is None
    assert parse_pmic_w(pmic_text()) is not None


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_no_text_breaks_a_parser(text):
    """Any text gives a value or None, never an exception."""
    for parse in (parse_temp_c, parse_clock_hz, parse_throttled, parse_pmic_w):
        assert parse(text) is None or parse(text) >= -55


def test_this_machine_can_be_read():
    """On the machine that runs the tests the memory of this process is told in bytes."""
    reading = Telemetry().read(os.getpid())
    assert reading.memory_available_bytes > 1 << 20
    assert 1 << 20 < reading.worker_rss_bytes < 1 << 36
