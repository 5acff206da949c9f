import struct
from pathlib import Path

import pytest

from agent import fingerprint
from agent.fingerprint import Userland, instruction_set, read
from agent.procfs import cpu_info
from agent.wire import Fingerprint, decode, encode

A53, A72, A76 = 0xD03, 0xD08, 0xD0B
V8_FEATURES = "fp asimd evtstrm crc32 cpuid"
PI5_FEATURES = "fp asimd aes sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp"
X86_CPUINFO = "vendor_id\t: GenuineIntel\nmodel name\t: {model}\nflags\t\t: fpu sse2 {flags}\n"


def put(root, path, text):
    file = Path(root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


def arm_cpuinfo(root, *parts, features=V8_FEATURES, implementer=0x41):
    text = "".join(
        f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: 0x{implementer:02x}\nCPU architecture: 8\nCPU variant\t: 0x4\n"
        f"CPU part\t: 0x{part:03x}\nCPU revision\t: 1\n\n"
        for i, part in enumerate(parts)
    )
    put(root, "proc/cpuinfo", text)


def x86_cpuinfo(root, model="Intel(R) Xeon(R) Processor", flags=""):
    put(root, "proc/cpuinfo", X86_CPUINFO.format(model=model, flags=flags))


def on(machine="aarch64", bits=64):
    return Userland(
        machine=machine,
        bits=bits,
        hostname="pi",
        kernel="6.6.31",
        libc="glibc 2.36",
        python="3.11.2",
        cpu_count=4,
    )


@pytest.fixture
def pi5(tmp_path):
    """The files that a Raspberry Pi 5 shows."""
    put(tmp_path, "proc/device-tree/model", b"Raspberry Pi 5 Model B Rev 1.0\0")
    put(tmp_path, "proc/device-tree/serial-number", b"a1b2c3d4e5f60718\0")
    put(tmp_path, "proc/device-tree/compatible", b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    arm_cpuinfo(tmp_path, A76, A76, A76, A76, features=PI5_FEATURES)
    put(tmp_path, "proc/meminfo", "MemTotal:  8245680 kB\nSwapTotal:   204784 kB\n")
    put(tmp_path, "proc/sys/kernel/random/boot_id", "0a2a834d-372b-4393-9ac3-bf6986eb95f3\n")
    put(tmp_path, "proc/sys/kernel/arch", "aarch64\n")
    put(tmp_path, "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    cpufreq = "sys/devices/system/cpu/cpu0/cpufreq"
    put(tmp_path, f"{cpufreq}/cpuinfo_max_freq", "2400000\n")
    put(tmp_path, f"{cpufreq}/scaling_governor", "ondemand\n")
    return tmp_path


def test_a_raspberry_pi_5_is_described_in_full(pi5):
    """Every fact of a board comes from its own files, without the NULs of the device tree."""
    found = read(pi5, userland=on(), packages=())
    assert found == Fingerprint(
        board_model="Raspberry Pi 5 Model B Rev 1.0",
        serial="a1b2c3d4e5f60718",
        hostname="pi",
        machine="aarch64",
        userland_bits=64,
        isa="aarch64-dotprod",
        cpu_model="Cortex-A76",
        cpu_count=4,
        cpu_features=tuple(PI5_FEATURES.split()),
        max_clock_hz=2_400_000_000,
        governor="ondemand",
        memory_bytes=8245680 * 1024,
        swap_bytes=204784 * 1024,
        os_name="Debian GNU/Linux 12 (bookworm)",
        kernel="6.6.31",
        libc="glibc 2.36",
        python="3.11.2",
        packages={},
        emulated=False,
        emulated_by=None,
        boot_id="0a2a834d-372b-4393-9ac3-bf6986eb95f3",
    )
    assert decode(encode(found), Fingerprint) == found


def test_an_empty_root_gives_none_and_no_exception(tmp_path):
    """Where no file exists the facts are None, and the memory is the C library's figure."""
    found = read(tmp_path, userland=on(), packages=())
    absent = ("board_model", "serial", "cpu_model", "max_clock_hz", "governor", "boot_id")
    assert [getattr(found, name) for name in absent] == [None] * len(absent)
    assert (found.cpu_features, found.os_name, found.isa) == ((), "Linux", "aarch64")
    assert found.memory_bytes > 1 << 20
    assert not found.emulated


@pytest.mark.parametrize(
    "garbage", [b"", b"\0\0\0", b"\xff\xfe" * 50, b"-1", b"0x", b"a" * 2_000_000]
)
def test_garbage_in_any_file_is_no_exception(pi5, garbage):
    """Whatever stands in the files, the fingerprint can be read and sent."""
    for path in [path for path in pi5.rglob("*") if path.is_file()]:
        path.write_bytes(garbage)
    found = read(pi5, userland=on(), packages=())
    assert found.max_clock_hz is None
    assert decode(encode(found), Fingerprint) == found


@pytest.mark.parametrize(
    ("part", "name"), [(A53, "Cortex-A53"), (A72, "Cortex-A72"), (A76, "Cortex-A76")]
)
def test_the_cores_of_raspberry_pis_have_names(tmp_path, part, name):
    """Part numbers of Arm cores become their names, once for equal cores."""
    arm_cpuinfo(tmp_path, part, part, part, part)
    assert fingerprint.cpu_model(tmp_path) == name


def test_mixed_and_unknown_cores_are_all_named(tmp_path):
    """A big.LITTLE CPU has both names; a part nobody knows keeps its numbers."""
    arm_cpuinfo(tmp_path, A53, A53, A76)
    assert fingerprint.cpu_model(tmp_path) == "Cortex-A53 + Cortex-A76"
    arm_cpuinfo(tmp_path, 0x022, implementer=0x61)
    assert fingerprint.cpu_model(tmp_path) == "implementer 0x61 part 0x022"


@pytest.mark.parametrize(
    ("machine", "bits", "features", "isa"),
    [
        ("aarch64", 64, V8_FEATURES, "aarch64"),
        ("aarch64", 64, PI5_FEATURES, "aarch64-dotprod"),
        ("aarch64", 32, PI5_FEATURES, "other"),
        ("armv7l", 32, "neon vfpv4", "other"),
        ("x86_64", 64, "avx2 avx512f", "x86_64"),
        ("x86_64", 64, "avx2 avx_vnni", "x86_64-vnni"),
        ("x86_64", 64, "avx512f avx512_vnni", "x86_64-vnni"),
        ("x86_64", 32, "avx_vnni", "other"),
        ("riscv64", 64, "", "other"),
    ],
)
def test_the_instruction_set_follows_the_interpreter(machine, bits, features, isa):
    """Dot-product CPUs are kept apart, and a 32-bit Python on a 64-bit kernel is neither."""
    assert instruction_set(machine, bits, features.split()) == isa


def test_packages_are_looked_up_without_importing_them(tmp_path):
    """Versions come from the metadata; what is not installed is left out."""
    found = read(tmp_path, userland=on(), packages=("numpy", "no-such-package-at-all"))
    assert list(found.packages) == ["numpy"]
    assert found.packages["numpy"][0].isdigit()


def test_this_machine_says_what_it_is():
    """The real root gives a message that crosses, with the pointer size of this interpreter."""
    found = read()
    assert found.userland_bits == 8 * struct.calcsize("P")
    optional = {"torch", "ai-edge-litert"}
    assert set(found.packages) | optional == set(fingerprint.PACKAGES)
    assert decode(encode(found), Fingerprint) == found


def emulator(root, machine):
    return read(root, userland=on(machine), packages=()).emulated_by


def test_an_x86_cloud_machine_is_not_emulated(tmp_path):
    """A virtual machine under KVM runs on silicon, even where its firmware says QEMU."""
    x86_cpuinfo(tmp_path, flags="hypervisor")
    put(tmp_path, "sys/class/dmi/id/sys_vendor", "QEMU\n")
    put(tmp_path, "proc/sys/kernel/arch", "x86_64\n")
    assert emulator(tmp_path, "x86_64") is None


def test_an_arm_python_over_an_x86_cpuinfo_is_emulated(tmp_path):
    """qemu-user shows the host's /proc/cpuinfo."""
    x86_cpuinfo(tmp_path)
    assert emulator(tmp_path, "aarch64") == "qemu-user"


def test_an_arm_python_over_an_x86_kernel_is_emulated(tmp_path):
    """A made-up Arm cpuinfo does not hide that the kernel is an x86 one."""
    arm_cpuinfo(tmp_path, A76)
    put(tmp_path, "proc/sys/kernel/arch", "x86_64\n")
    assert emulator(tmp_path, "aarch64") == "qemu-user"


def test_a_32_bit_userland_on_a_64_bit_kernel_is_not_emulated(tmp_path):
    """The same kind of CPU in another width is real."""
    arm_cpuinfo(tmp_path, A72)
    put(tmp_path, "proc/sys/kernel/arch", "aarch64\n")
    assert emulator(tmp_path, "armv7l") is None
    put(tmp_path, "proc/sys/kernel/arch", "x86_64\n")
    x86_cpuinfo(tmp_path)
    assert emulator(tmp_path, "i686") is None


def test_the_interpreter_behind_the_interpreter_is_seen(tmp_path):
    """An executable that is a QEMU gives qemu-user away when both files lie."""
    arm_cpuinfo(tmp_path, A76)
    link = tmp_path / "proc/thread-self/exe"
    link.parent.mkdir(parents=True)
    link.symlink_to("/usr/bin/qemu-aarch64-static")
    assert emulator(tmp_path, "aarch64") == "qemu-user"
    link.unlink()
    link.symlink_to("/usr/bin/python3.11")
    assert emulator(tmp_path, "aarch64") is None


def test_a_core_of_no_maker_is_tcg(tmp_path):
    """QEMU's own Arm core has implementer 0, which no silicon has."""
    arm_cpuinfo(tmp_path, 0x051, implementer=0x00)
    assert emulator(tmp_path, "aarch64") == "QEMU TCG"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("proc/device-tree/compatible", b"linux,dummy-virt\0"),
        ("sys/class/dmi/id/sys_vendor", b"QEMU\n"),
    ],
)
def test_the_virt_machine_counts_as_emulated(tmp_path, path, text):
    """QEMU's Arm machine with a core that TCG imitates is taken for TCG."""
    arm_cpuinfo(tmp_path, A72)
    put(tmp_path, path, text)
    assert emulator(tmp_path, "aarch64") == "QEMU TCG"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("sys/hypervisor/type", "xen\n"),
        ("sys/class/ptp/ptp0/clock_name", "KVM virtual PTP\n"),
    ],
)
def test_proof_of_silicon_clears_the_virt_machine(tmp_path, path, text):
    """Xen or KVM's clock device prove that instructions run on a real CPU."""
    arm_cpuinfo(tmp_path, A72)
    put(tmp_path, "proc/device-tree/compatible", b"linux,dummy-virt\0")
    put(tmp_path, path, text)
    assert emulator(tmp_path, "aarch64") is None


def test_a_core_that_tcg_cannot_imitate_clears_the_virt_machine(tmp_path):
    """An Apple core in QEMU's machine is KVM or another hypervisor on silicon."""
    arm_cpuinfo(tmp_path, 0x022, implementer=0x61)
    put(tmp_path, "sys/class/dmi/id/sys_vendor", "QEMU\n")
    assert emulator(tmp_path, "aarch64") is None


def test_x86_tcg_is_told_from_kvm(tmp_path):
    """QEMU's generic CPU is TCG where the guest has no kvm-clock, and its TCG CPU always is."""
    clocks = "sys/devices/system/clocksource/clocksource0/available_clocksource"
    x86_cpuinfo(tmp_path, "QEMU Virtual CPU version 2.5+")
    put(tmp_path, clocks, "tsc hpet acpi_pm\n")
    assert emulator(tmp_path, "x86_64") == "QEMU TCG"
    put(tmp_path, clocks, "kvm-clock tsc acpi_pm\n")
    assert emulator(tmp_path, "x86_64") is None
    x86_cpuinfo(tmp_path, "QEMU TCG CPU version 2.5+")
    assert emulator(tmp_path, "x86_64") == "QEMU TCG"


def test_features_of_both_kinds_of_cpu_are_read(tmp_path):
    """Arm's 'Features' and x86's 'flags' become the same list of words."""
    arm_cpuinfo(tmp_path, A76, features="fp asimddp")
    assert cpu_info(tmp_path).features == ("fp", "asimddp")
    x86_cpuinfo(tmp_path, flags="avx_vnni")
    assert cpu_info(tmp_path).features == ("fpu", "sse2", "avx_vnni")
    assert cpu_info(tmp_path).model == "Intel(R) Xeon(R) Processor"
