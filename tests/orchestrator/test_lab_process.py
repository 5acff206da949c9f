from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orchestrator.lab import build, process
from orchestrator.lab.errors import ImageBuildFailed
from orchestrator.lab.process import ProcessId

SLEEP = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")


def sleeper(lab: Path, role: str = "board x") -> subprocess.Popen[bytes]:
    started = subprocess.Popen(
        SLEEP, stdout=subprocess.PIPE, env=process.environment(lab, role), start_new_session=True
    )
    assert started.stdout is not None
    started.stdout.readline()
    started.stdout.close()
    return started


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    started = sleeper(tmp_path)
    yield started
    started.kill()
    started.wait(10)


def known(pid: int) -> ProcessId:
    found = process.identify(pid)
    assert found is not None
    return found


def test_a_process_is_known_by_its_start_as_well(child: subprocess.Popen[bytes]) -> None:
    """Another start time or another boot is another process, whatever the pid is."""
    found = known(child.pid)
    assert process.is_running(found)
    for other in (
        msgspec.structs.replace(found, start_ticks=found.start_ticks + 1),
        msgspec.structs.replace(found, boot_id="another"),
    ):
        assert not process.is_running(other)
        assert not process.send(other, signal.SIGKILL)
        assert process.wait_end(other, 0)
    assert child.poll() is None


def test_a_process_that_has_ended_is_no_process(child: subprocess.Popen[bytes]) -> None:
    """A zombie counts as ended: it runs nothing and needs no signal."""
    found = known(child.pid)
    assert process.send(found, signal.SIGTERM)
    assert process.wait_end(found, 10)
    assert process.identify(child.pid) is None  # not waited for yet
    assert not process.send(found, signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM


def test_a_process_that_goes_on_in_a_child_is_ended_with_it(tmp_path: Path) -> None:
    """What a role's process leaves behind when it is killed is killed as well."""
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "end_s = time.monotonic() + 30\n"
        "os.fork() or os.setsid()\nprint('up', flush=True)\n"
        "while time.monotonic() < end_s: time.sleep(0.01); os.fork() and os._exit(0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE,
        env=process.environment(tmp_path, "board x"),
    ) as runaway:  # fmt: skip
        assert runaway.stdout is not None
        runaway.stdout.readline()
        assert process.kill_all(tmp_path, "board x", 10)
    for _ in range(20):
        assert process.marked(tmp_path) == {}


def test_killing_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot be killed does not hold the command for ever."""
    with sleeper(tmp_path) as child:
        monkeypatch.setattr(process, "send", lambda *_args: False)
        assert not process.kill_all(tmp_path, "board x", 0.1)
        child.kill()


def test_waiting_for_an_end_has_a_deadline(child: subprocess.Popen[bytes]) -> None:
    """A process that goes on is reported as such when the time is over."""
    assert not process.wait_end(known(child.pid), 0.05)


def test_marked_processes_are_those_of_this_lab_and_their_children(tmp_path: Path) -> None:
    """The mark is inherited, and that of another lab is not ours."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    parent = subprocess.Popen(
        ["sh", "-c", "sleep 60 & wait"], env=process.environment(mine, "build")
    )
    stranger = sleeper(other)
    try:
        found = process.marked(mine)
        while len(found) < 2:
            found = process.marked(mine)
        assert set(found.values()) == {"build"}
        assert parent.pid in {one.pid for one in found}
        assert stranger.pid not in {one.pid for one in found}
        assert os.getpid() not in {one.pid for one in found}
        build.end_builders(mine)
        parent.wait(10)
        assert process.marked(mine) == {}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(10)


def test_what_proc_does_not_say_is_no_process(tmp_path: Path) -> None:
    """A pid without files, and files that cannot be read, are no process of ours."""
    assert process.identify(1, tmp_path) is None
    (tmp_path / "17").mkdir()
    assert process.marked(tmp_path, tmp_path) == {}
    assert not process.is_frozen(ProcessId(17, 1, "boot"), tmp_path)


def test_a_name_with_blanks_and_parentheses_is_read_right(tmp_path: Path) -> None:
    """Fields of /proc/PID/stat are counted from the last parenthesis."""
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    (tmp_path / "17").mkdir()
    rest = " ".join(["S", *(str(number) for number in range(4, 40))])
    (tmp_path / "17/stat").write_text(f"17 (a ) Z (b) {rest}\n")
    assert process.identify(17, tmp_path) == ProcessId(17, 22, "boot")


def test_a_tool_that_fails_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """A failed build step is an error that shows what the tool said last."""
    with pytest.raises(ImageBuildFailed, match=r"(?s)making it failed \(exit code 3\).*E: no mirr"):
        build.run(
            ["sh", "-c", "echo E: no mirror; exit 3"], lab=tmp_path, folder=tmp_path,
            what="making it",
        )  # fmt: skip


def test_a_tool_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build step has a deadline, and everything that it started ends with it."""
    monkeypatch.setattr(build, "TIMEOUT_S", 0.3)
    with pytest.raises(ImageBuildFailed, match=r"(?s)did not end within .*is the network slow"):
        build.run(
            ["sh", "-c", "sleep 60 & setsid sleep 60 & wait"], lab=tmp_path, folder=tmp_path,
            what="waiting",
        )  # fmt: skip
    assert process.marked(tmp_path) == {}


def test_an_interrupted_build_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the build's own processes, which the terminal's signal does not reach."""

    def interrupt(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.run(["sleep", "60"], lab=tmp_path, folder=tmp_path, what="waiting")
    assert process.marked(tmp_path) == {}
