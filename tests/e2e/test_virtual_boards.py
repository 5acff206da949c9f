"""Two emulated boards from nothing to stored results, through the same code as a Raspberry Pi."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from support.onnxmodels import tiny_model
from support.virtual import RealLab, real_lab

from orchestrator.boards.base import Session
from orchestrator.boards.registry import make_board
from orchestrator.errors import BoardUnreachable, UnknownName
from orchestrator.inventory import load
from orchestrator.lab import control, faults, machine, monitor, process

BOARDS = ("pi5-virtual", "pi3b-virtual")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.timeout(900),  # the first test builds the image and boots both boards
]


@pytest.fixture(scope="module")
def lab(virtual_lab: RealLab) -> RealLab:
    """Both boards, up."""
    virtual_lab.up(*BOARDS)
    return virtual_lab


def session_on(lab: RealLab, name: str) -> Session:
    known = load(lab.place.inventory)
    return make_board(known.boards[name], known, lab.place).connect()


def emulator(lab: RealLab, name: str) -> psutil.Process:
    found = machine.running(lab.lab, lab.lab.board(name))
    assert found is not None
    return psutil.Process(found.pid)


def test_a_run_over_two_virtual_boards_is_stored_and_marked(
    lab: RealLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main job deploys, measures and stores on both, as `smoke`, flagged as emulated."""
    model, stored = str(tiny_model(tmp_path / "tiny.onnx")), str(tmp_path / "results.sqlite")
    chosen = ("--boards", ",".join(BOARDS), "--model", model, "--db", stored)
    assert lab.cli("run", *chosen, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["state"] == "finished"
    with closing(sqlite3.connect(stored)) as database:
        profile, *_ = database.execute("SELECT profile FROM runs").fetchone()
        trials = database.execute("SELECT board, state, isa FROM trials ORDER BY board").fetchall()
        flagged = database.execute("SELECT emulated, emulated_by FROM fingerprints").fetchall()
        samples = database.execute(
            "SELECT count(*) FROM samples WHERE phase = 2 GROUP BY trial_no"
        ).fetchall()
    assert profile == "smoke"
    assert trials == [
        ("pi3b-virtual", "finished", "aarch64"),
        ("pi5-virtual", "finished", "aarch64-dotprod"),
    ]
    assert flagged == [(1, "QEMU TCG"), (1, "QEMU TCG")]
    assert samples == [(8,), (8,)]
    assert lab.cli("runs", "--db", stored, "show") == 0
    assert capsys.readouterr().out.count("emulated") >= len(BOARDS)


def scored_on(lab: RealLab, stored: str, *words: str) -> dict[tuple[str, str], float]:
    """Run the shipped experiment on both boards with `smoke`; mAP50 by board and variant."""
    assert lab.cli("run", "--boards", ",".join(BOARDS), "--db", stored, *words) == 0
    with closing(sqlite3.connect(stored)) as database:
        rows = database.execute(
            "SELECT board, variant, map50, eval_images, n, rank FROM v_leaderboard"
        ).fetchall()
    assert {row[3] for row in rows} == {4}
    assert all(0 < row[4] <= 8 for row in rows)  # the cap may come first: soft float is slow
    assert {row[5] for row in rows} == {None}
    return {row[:2]: row[2] for row in rows}


def test_the_shipped_detector_finds_objects_on_virtual_boards(
    lab: RealLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """INT8 is built for each board's instructions, measured there, scored, and never ranked."""
    found = scored_on(lab, str(tmp_path / "results.sqlite"), "--recipes", "int8_ptq")
    assert sorted(found) == [(board, "int8_ptq") for board in sorted(BOARDS)]
    assert min(found.values()) > 0.7
    assert capsys.readouterr().out.count("emulated") >= len(BOARDS)


@pytest.mark.long
def test_the_whole_main_job_on_virtual_boards(lab: RealLab, tmp_path: Path) -> None:
    """Without further words every variant of the shipped experiment is measured and scored."""
    found = scored_on(lab, str(tmp_path / "results.sqlite"))
    variants = ["fp32", "int8_ptq", "int8_ptq_all", "ort_format"]
    assert sorted(found) == [(board, v) for board in sorted(BOARDS) for v in variants]
    for board in BOARDS:
        assert found[board, "fp32"] > 0.8
        assert found[board, "ort_format"] == pytest.approx(found[board, "fp32"], abs=1e-3)
        assert found[board, "int8_ptq"] == pytest.approx(found[board, "fp32"], abs=0.1)
    assert found["pi3b-virtual", "fp32"] == pytest.approx(found["pi5-virtual", "fp32"], abs=1e-3)


def test_each_board_is_what_its_name_says(lab: RealLab) -> None:
    """The fingerprints tell the cores apart: one has dot products, the other has none."""
    found = {}
    for name in BOARDS:
        session = session_on(lab, name)
        found[name] = session.hello("test").fingerprint
        session.close()
    five, three = found["pi5-virtual"], found["pi3b-virtual"]
    assert (five.cpu_model, five.isa) == ("Cortex-A76", "aarch64-dotprod")
    assert (three.cpu_model, three.isa) == ("Cortex-A53", "aarch64")
    assert "asimddp" in five.cpu_features
    assert "asimddp" not in three.cpu_features
    assert (five.hostname, three.hostname) == BOARDS
    assert five.boot_id != three.boot_id
    assert all(one.emulated_by == "QEMU TCG" for one in found.values())
    assert all(one.python.startswith("3.11.") for one in found.values())
    assert all(one.os_name.startswith("Debian GNU/Linux 12") for one in found.values())


def test_a_board_is_bare_but_for_the_packages_disk(lab: RealLab) -> None:
    """The board's own Python has no pip and no package; its account is an ordinary one."""
    probe = (
        "import importlib.util as u; print([n for n in ('pip', 'numpy', 'rpyc') if u.find_spec(n)])"
    )
    assert lab.said("pi5-virtual", f'python3 -I -c "{probe}"').strip() == "[]"
    assert lab.said(
        "pi5-virtual", "id -u; test -w /usr || echo no; which pip sudo; true"
    ).split() == ["1000", "no"]


def test_the_only_door_is_a_loopback_port_to_sshd(lab: RealLab) -> None:
    """The emulator listens on 127.0.0.1 alone, and a board reaches neither host nor internet."""
    for name in BOARDS:
        listening = [
            connection.laddr for connection in emulator(lab, name).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]  # fmt: skip
        port = machine.recorded(lab.lab.board(name)).port
        assert [(one.ip, one.port) for one in listening] == [("127.0.0.1", port)]
    reach = "timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.2.2/{port}'"
    assert lab.ssh("pi5-virtual", reach.format(port=port)).returncode != 0
    assert lab.ssh("pi5-virtual", "timeout 5 bash -c 'exec 3<>/dev/tcp/1.1.1.1/53'").returncode != 0


def test_the_emulator_has_no_privileges(lab: RealLab) -> None:
    """QEMU runs as an ordinary user, even when the lab is started by root."""
    for name in BOARDS:
        assert 0 not in emulator(lab, name).uids()


def test_a_cable_that_was_out_leaves_the_session_alive(lab: RealLab) -> None:
    """A session outlives five seconds without a link; a new one meets silence meanwhile."""
    name = "pi5-virtual"
    session = session_on(lab, name)
    faults.set_link(lab.lab, name, up=False)
    try:
        assert not machine.is_listening(machine.recorded(lab.lab.board(name)).port, timeout_s=5)
    finally:
        faults.set_link(lab.lab, name, up=True)
    assert session.telemetry().t_ns > 0
    session.close()


def test_a_frozen_board_goes_on_where_it_was(lab: RealLab) -> None:
    """SIGSTOP holds a board, `status` says so, and its session resumes after SIGCONT."""
    name = "pi3b-virtual"
    session = session_on(lab, name)
    faults.freeze(lab.lab, name)
    try:
        frozen = {one.name for one in control.status(lab.place) if one.condition == "frozen"}
        assert frozen == {name}
    finally:
        faults.thaw(lab.lab, name)
    assert session.telemetry().t_ns > 0
    session.close()


def test_a_power_cut_keeps_what_was_synced_and_nothing_else(lab: RealLab) -> None:
    """After SIGKILL and a start with a clock in 1970, synced files are there."""
    name = "pi3b-virtual"
    lab.said(name, "echo kept >kept && sync && echo lost >lost")
    before = lab.said(name, "cat /proc/sys/kernel/random/boot_id")
    faults.cut_power(lab.lab, name)
    with pytest.raises(BoardUnreachable, match=f"orchestrator lab up {name}"):
        session_on(lab, name)
    faults.power_on(lab.lab, name, clock_utc="1970-01-01T00:00:00")
    lab.wait_until_up(name)
    kept, year, boot = lab.said(
        name, "cat kept; date +%Y; cat /proc/sys/kernel/random/boot_id"
    ).split()
    assert (kept, year) == ("kept", "1970")
    assert boot != before.strip()


def test_a_reset_board_boots_again(lab: RealLab) -> None:
    """`system_reset` is a reboot: the same emulator, another boot."""
    name = "pi3b-virtual"
    process_before, boot = emulator(lab, name).pid, "cat /proc/sys/kernel/random/boot_id"
    before = lab.said(name, boot)
    faults.reset(lab.lab, name)
    deadline = time.monotonic() + machine.BOOT_TIMEOUT_S
    after = ""
    while time.monotonic() < deadline and after in ("", before):
        after = lab.ssh(name, boot).stdout
    assert after not in ("", before)
    assert emulator(lab, name).pid == process_before


def test_the_console_is_a_root_shell(lab: RealLab) -> None:
    """What is typed on the serial console is run by root on the board."""
    said = b""
    with monitor.connected(lab.lab.board("pi5-virtual").console, 60) as console:
        console.sendall(b"echo I am $(id -un)\n")
        while b"I am root" not in said:
            piece = console.recv(4096)
            assert piece, said
            said += piece


def test_a_killed_lab_up_leaves_nothing_that_cannot_be_removed(lab: RealLab) -> None:
    """SIGKILL of `lab up` while a board boots: `down` ends that board, `remove` deletes it."""
    name = "pi3b-virtual-2"
    assert lab.cli("lab", "down", "pi3b-virtual") == 0
    command = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "lab", "up", name],
        cwd=lab.place.root, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while process.board_role(name) not in process.marked(lab.lab.root).values():
        assert time.monotonic() < deadline
        assert command.poll() is None
    command.send_signal(signal.SIGKILL)
    command.wait()
    assert lab.cli("lab", "down", name) == 0
    assert process.board_role(name) not in process.marked(lab.lab.root).values()
    assert lab.cli("lab", "remove", name) == 0
    assert not lab.lab.board(name).path.exists()


def test_remove_leaves_no_process_and_no_file(lab: RealLab, tmp_path: Path) -> None:
    """After `lab remove` nothing runs, nothing lies on the disk, and the board is unknown."""
    other = real_lab(tmp_path)
    other.place.lab.mkdir(parents=True)
    shutil.copytree(lab.lab.images, other.lab.images, copy_function=os.link)
    other.up("pi3b-virtual")
    pid = emulator(other, "pi3b-virtual").pid
    assert other.cli("lab", "remove") == 0
    assert process.identify(pid) is None
    assert process.marked(other.place.lab) == {}
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert left == {Path("inventory.yaml"), Path(".orchestrator")}
    assert other.cli("run", "--boards", "pi3b-virtual") == UnknownName.exit_code
    assert emulator(lab, "pi5-virtual").is_running()
