import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.onnxmodels import tiny_model
from support.workerrig import HEAD, PREP, REPOSITORY, SECOND_NS, Rig, detector, scenario

from agent.wire import SAMPLES_HEADER, Evaluation, FailureKind, decode_samples
from agent.worker_events import Ended, PhaseStarted, decode_event


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.fixture
def tiny(rig, tmp_path):
    """A small model of input x (1, 3, 8, 8)."""
    return rig.add(tiny_model(tmp_path / "tiny.onnx").read_bytes())


def test_a_file_size_limit_is_disk_full_before_timing(rig, tiny):
    """No room for samples.bin is found before the timed loop and reported as disk_full."""
    rig.write(tiny, scenario=scenario(min_samples=100_000))
    failure = rig.failure("resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))")
    assert failure.kind is FailureKind.DISK_FULL
    assert "disk" in failure.message


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this account may not mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_found_before_timing(rig, tiny, small_disk):
    """On a really full disk the trial ends with disk_full, never with a signal."""
    rig.trial = small_disk / "trial"
    rig.trial.mkdir()
    rig.write(tiny, scenario=scenario(min_samples=100_000))
    assert rig.failure().kind is FailureKind.DISK_FULL


def test_a_disk_that_fills_up_later_keeps_the_samples(rig, small_disk):
    """When detections no longer fit, the failure is disk_full and the samples are whole."""
    images = (rig.image("a"), rig.image("b", seed=1))
    rig.trial = small_disk / "trial"
    rig.trial.mkdir()
    evaluation = Evaluation(images, PREP, HEAD, 60 * SECOND_NS)
    rig.write(rig.add(detector()), evaluation=evaluation)
    with (small_disk / "other").open("wb") as stream:
        disk = os.statvfs(small_disk)
        stream.write(bytes((disk.f_bfree - 1) * disk.f_frsize))  # one block is left, for samples
    failure = rig.failure()
    assert failure.kind is FailureKind.DISK_FULL
    assert rig.samples().counts == (1, 2, 5)


def wait_for_samples(rig, process, at_least):
    """Read events until sampling, then wait until so many slots are filled."""
    for line in process.stdout:
        event = decode_event(line)
        if isinstance(event, PhaseStarted) and event.phase == "sample":
            break
    deadline = time.monotonic() + 30
    with (rig.trial / "samples.bin").open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    capacity = SAMPLES_HEADER.unpack_from(mapped)[1]
    column = memoryview(mapped)[SAMPLES_HEADER.size :].cast("Q")[:capacity]
    while column[at_least] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_kill_while_sampling_leaves_the_samples(rig, tiny):
    """After SIGKILL the file has every finished phase counted and the later slots filled."""
    rig.write(tiny, scenario=scenario(min_duration_ns=60 * SECOND_NS))
    with rig.start() as process:
        wait_for_samples(rig, process, at_least=100)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    data = (rig.trial / "samples.bin").read_bytes()
    samples = decode_samples(data)
    assert samples.counts == (1, 2, 0)
    capacity = SAMPLES_HEADER.unpack_from(data)[1]
    latency = np.frombuffer(data, "<u8", capacity, SAMPLES_HEADER.size)
    used = np.flatnonzero(latency)
    assert len(used) > 100
    assert np.array_equal(used, np.arange(len(used)))


@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
def test_sigterm_ends_the_worker_at_once(rig, tiny, handler):
    """SIGTERM ends it in mid-phase, even where the parent had ignored or blocked the signal."""
    rig.write(tiny, scenario=scenario(min_duration_ns=60 * SECOND_NS))
    before = (
        f"signal.signal(signal.SIGTERM, signal.{handler})\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})"
    )
    with rig.start(before) as process:
        wait_for_samples(rig, process, at_least=5)
        start = time.monotonic()
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
    assert time.monotonic() - start < 1.0


def test_nothing_but_events_reaches_stdout(rig, tiny):
    """What native code writes to file descriptor 1 goes to stderr; stdout is events only."""
    rig.write(tiny)
    code = (
        "import os, pathlib, sys; from agent import worker\n"
        "real = worker.run\n"
        "def noisy(*args): os.write(1, b'native noise'); real(*args)\n"
        "worker.run = noisy\n"
        "sys.exit(worker.main(*map(pathlib.Path, sys.argv[1:])))\n"
    )
    command = [sys.executable, "-c", code, str(rig.trial), str(rig.artifacts)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=True)
    assert b"native noise" in done.stderr
    assert isinstance([decode_event(line) for line in done.stdout.splitlines()][-1], Ended)


def test_no_torch_and_none_of_our_other_rooms_is_imported(rig, tiny):
    """A worker needs the board's few packages and nothing of the host side."""
    rig.write(tiny)
    code = (
        "import json, pathlib, sys; from agent import worker\n"
        "worker.main(*map(pathlib.Path, sys.argv[1:]))\n"
        "names = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps(names), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, str(rig.trial), str(rig.artifacts)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "orchestrator", "models", "results", "rich", "onnx", "sqlalchemy"}


def test_the_worker_runs_from_a_bundle(rig, tiny, tmp_path):
    """The same worker runs isolated from a copied directory, as it does on a board."""
    bundle = tmp_path / "bundle"
    shutil.copytree(REPOSITORY / "agent", bundle / "agent")
    (bundle / "__main__.py").write_text("from agent.__main__ import main\n\nmain()\n")
    rig.write(tiny)
    command = [sys.executable, "-I", str(bundle), *rig.command()[3:]]
    done = subprocess.run(command, cwd="/", capture_output=True, timeout=60, check=True)
    assert isinstance(decode_event(done.stdout.splitlines()[-1]), Ended)
