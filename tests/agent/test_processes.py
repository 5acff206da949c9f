import logging
import subprocess
import sys

from agent import processes


class Unending(subprocess.Popen):
    """As the kernel shows a process that waits for a dead disk: killed, and still there."""

    def wait(self, timeout=None):
        assert timeout is not None, "this would wait for ever"
        raise subprocess.TimeoutExpired(self.args, timeout)

    def poll(self):
        return None


def sleeper(kind=subprocess.Popen):
    body = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"
    process = kind(
        [sys.executable, "-c", f"{body}; time.sleep(60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    process.stdout.readline()
    process.stdout.close()
    return process


def test_a_process_that_ignores_the_polite_signal_is_killed(monkeypatch):
    """What does not end by itself is ended for certain, and its exit code is known."""
    monkeypatch.setattr(processes, "TERMINATE_PATIENCE_S", 0.1)
    process = sleeper()
    processes.end_group(process)
    assert process.returncode == -9


def test_a_process_that_not_even_a_kill_ends_is_left(monkeypatch, caplog):
    """The agent goes on beside a process that the kernel does not let go, and says so."""
    process = sleeper(Unending)
    with caplog.at_level(logging.ERROR):
        processes.end_group(process)
    assert process.returncode is None
    assert f"process {process.pid} was killed" in caplog.text
    assert subprocess.Popen.wait(process, 10) == -9  # this one's kernel did let it go
