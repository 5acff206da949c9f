import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.agentkit import NsClock

from agent.errors import Refused
from agent.lease import Lease, board_lock_path, open_lock
from agent.wire import FailureKind, LeaseRequest


def request(run_id="run-1", holder="ann@desk", ttl_s=60.0):
    return LeaseRequest(holder=holder, run_id=run_id, ttl_s=ttl_s)


@pytest.fixture
def clock():
    return NsClock()


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "board.lock"


@pytest.fixture
def lease(lock, clock):
    made = Lease(lock, clock)
    yield made
    made.close()


@pytest.fixture
def other(lock, clock):
    """Another agent of the same board."""
    made = Lease(lock, clock)
    yield made
    made.close()


def refused(call, *args):
    with pytest.raises(Refused) as caught:
        call(*args)
    return caught.value.failure


def test_take_and_tell(lease):
    """A taken lease says whose it is and how long it lasts."""
    info = lease.take(request())
    assert (info.holder, info.run_id, info.expires_in_s) == ("ann@desk", "run-1", 60.0)
    assert lease.current() == info
    assert lease.held()


def test_another_run_is_refused(lease, clock):
    """Whoever asks for a held board is told the holder, the run and the time that is left."""
    lease.take(request())
    clock.pass_s(20)
    failure = refused(lease.take, request("run-2", "bob@lab"))
    assert failure.kind is FailureKind.LEASE_HELD
    for words in ("ann@desk", "run-1", "40 s"):
        assert words in failure.message


def test_another_agent_is_refused(lease, other, clock):
    """The lease is the board's: another account's agent is refused in the same words."""
    lease.take(request())
    clock.pass_s(20)
    failure = refused(other.take, request("run-2"))
    assert failure.kind is FailureKind.LEASE_HELD
    for words in ("ann@desk", "run-1", "40 s"):
        assert words in failure.message
    seen = other.current()
    assert seen is not None
    assert (seen.run_id, seen.expires_in_s) == ("run-1", 40.0)
    assert not other.held()


def test_it_runs_out(lease, other, clock):
    """Without renewal the board is free again, for this agent and for the others."""
    lease.take(request(ttl_s=5))
    clock.pass_s(5)
    lease.tick()
    assert lease.current() is None
    assert other.take(request("run-2")).run_id == "run-2"


def test_renewal(lease, clock):
    """Renewing and touching start the time again; a stranger's touch does not."""
    lease.take(request(ttl_s=10))
    clock.pass_s(9)
    assert lease.renew("run-1").expires_in_s == 10
    clock.pass_s(9)
    lease.touch("run-1")
    clock.pass_s(9)
    lease.touch("run-2")
    assert lease.held()
    clock.pass_s(1)
    assert not lease.held()


def test_renewal_comes_too_late(lease, other, clock):
    """A lost lease cannot be renewed, and the failure says who has the board now."""
    lease.take(request(ttl_s=5))
    clock.pass_s(6)
    failure = refused(lease.renew, "run-1")
    assert failure.kind is FailureKind.LEASE_LOST
    assert "nobody" in failure.message
    other.take(request("run-2", "bob@lab"))
    assert "bob@lab" in refused(lease.renew, "run-1").message


def test_its_own_run_takes_it_back(lease, clock):
    """The run that holds the board may take it again, as after a broken connection."""
    lease.take(request(ttl_s=10))
    clock.pass_s(8)
    assert lease.take(request(ttl_s=30)).expires_in_s == 30


def test_release(lease, other):
    """A released board is free at once; a stranger's release changes nothing."""
    lease.take(request())
    lease.release("run-2")
    assert lease.held()
    lease.release("run-1")
    lease.release("run-1")
    assert other.take(request("run-2")).run_id == "run-2"


def test_never_under_a_running_trial(lease, other, clock):
    """While a trial runs the board stays held beyond its time, and not longer."""
    lease.take(request(ttl_s=5))
    lease.pin("run-1")
    clock.pass_s(1000)
    lease.tick()
    failure = refused(other.take, request("run-2"))
    assert failure.kind is FailureKind.LEASE_HELD
    assert "with its trial" in failure.message
    lease.release("run-1")
    assert lease.held()
    lease.unpin()
    assert other.take(request("run-2")).run_id == "run-2"


def test_pin_needs_the_lease(lease):
    """A trial cannot hold a board that its run does not."""
    assert refused(lease.pin, "run-1").kind is FailureKind.LEASE_LOST


@pytest.mark.parametrize(
    "bad",
    [
        request(ttl_s=0.0),
        request(ttl_s=-1.0),
        request(ttl_s=1e9),
        request(holder=""),
        request(run_id="x" * 201),
        request(holder="a\x1b[31m"),
    ],
)
def test_bad_requests(lease, bad):
    """A lease without end, without name or with control characters is not given."""
    assert refused(lease.take, bad).kind is FailureKind.BAD_REQUEST
    assert lease.current() is None


def test_the_kernel_lets_go(lock, lease):
    """The lease of a killed agent is free at once: the kernel drops its lock."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from agent.lease import Lease; from agent.wire import LeaseRequest\n"
        "Lease(Path(sys.argv[1])).take(LeaseRequest('dead', 'run-0', 600.0))\n"
        "print('taken', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        assert refused(lease.take, request()).kind is FailureKind.LEASE_HELD
        process.kill()
    assert lease.take(request()).run_id == "run-1"


@pytest.mark.parametrize("text", [b"", b"{", b"null", b"\xff", b'{"holder":1}'])
def test_unreadable_note(lock, lease, text):
    """A lock whose text says nothing is still a lock."""
    lock.write_bytes(text)
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        failure = refused(lease.take, request())
    assert failure.kind is FailureKind.LEASE_HELD
    assert "another account" in failure.message


def test_a_glance_does_not_disturb(lock, lease):
    """Another agent that only looks at the lock does not make taking it fail."""
    lock.touch()
    watcher = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys; from pathlib import Path\nfrom agent.lease import Lease\n"
            "look = Lease(Path(sys.argv[1])); print('looking', flush=True)\n"
            "while True: look.current()",
            str(lock),
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        for _ in range(20):
            lease.take(request())
            lease.release("run-1")
    finally:
        watcher.kill()
        watcher.communicate()


def test_lock_file_is_for_every_account(lock, monkeypatch):
    """The file is open to all accounts, whatever the umask of the one that made it."""
    before = os.umask(0o077)
    try:
        os.close(open_lock(lock))
    finally:
        os.umask(before)
    assert lock.stat().st_mode & 0o777 == 0o666


def test_existing_file_is_opened_as_it_is(lock, monkeypatch):
    """An existing file is never opened with O_CREAT, which sticky directories refuse."""
    lock.touch()
    seen = []
    real = os.open

    def spy(path, flags, *args):
        seen.append(flags)
        return real(path, flags, *args)

    monkeypatch.setattr(os, "open", spy)
    os.close(open_lock(lock))
    assert seen
    assert not any(flags & os.O_CREAT for flags in seen)


def test_no_link_is_followed(lock, tmp_path):
    """A link or a directory in the lock's place is refused, not followed."""
    target = tmp_path / "precious"
    lock.symlink_to(target)
    assert refused(open_lock, lock).kind is FailureKind.INTERNAL
    assert not target.exists()
    lock.unlink()
    os.mkfifo(lock)
    assert "regular file" in refused(open_lock, lock).message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second account")
def test_two_accounts(clock):
    """An agent of another account sees the holder and is refused."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        lock = Path(folder) / "board.lock"
        lease = Lease(lock, clock)
        lease.take(request())
        failure = refused_as_nobody(lock)
        lease.close()
    assert failure["kind"] == "lease_held"
    assert "ann@desk" in failure["message"]


def refused_as_nobody(lock):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from agent.errors import Refused; from agent.lease import Lease\n"
        "from agent.wire import LeaseRequest, encode\n"
        "os.setuid(65534)\n"
        "try: Lease(Path(sys.argv[1])).take(LeaseRequest('bob', 'run-2', 5.0))\n"
        "except Refused as exc: print(encode(exc.failure))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(lock)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_where_the_lock_is(tmp_path):
    """Every account finds the same file: in /run/lock where all may write there, else in /tmp."""
    runtime, temporary = tmp_path / "lock", tmp_path / "tmp"
    assert board_lock_path(runtime, temporary).parent == temporary
    runtime.mkdir(mode=0o755)
    assert board_lock_path(runtime, temporary).parent == temporary
    runtime.chmod(0o1777)
    assert board_lock_path(runtime, temporary).parent == runtime
