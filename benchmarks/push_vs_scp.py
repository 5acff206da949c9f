"""Throughput of a push to a board over ssh, against scp of the same file, alternating.

Both go to one sshd on loopback; ratios count, the machine does not. Prints also what a second
push of the same file moves. Needs OpenSSH's sshd.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.boards import ssh_rig
from support.sshd import SSHD, Sshd, running_sshd

from orchestrator.boards.base import Session
from orchestrator.transfer import File, push

SIZE_BYTES = 100_000_000
ROUNDS = 7
GOAL = 0.8


def random_file(path: Path) -> File:
    """A file whose bytes do not compress, under a new digest each time."""
    data = os.urandom(SIZE_BYTES)
    path.write_bytes(data)
    return File(hashlib.sha256(data).hexdigest(), len(data), path)


def push_s(session: Session, file: File) -> float:
    started = time.perf_counter()
    push(session, [file], lambda state: None)
    return time.perf_counter() - started


def scp_s(server: Sshd, source: Path, target: Path) -> float:
    known_hosts = server.folder / "scp_known_hosts"
    known_hosts.write_text(server.known_hosts_line("loop"))
    argv = [
        "scp", "-q", "-F", str(server.ssh_config),
        "-o", f"UserKnownHostsFile={known_hosts}", "-o", "HostKeyAlias=loop",
        str(source), f"loop:{target}",
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(argv, check=True, timeout=300)
    return time.perf_counter() - started


def main() -> int:
    if SSHD is None:
        print("sshd is not installed: apt-get install openssh-server")
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sshd").mkdir()
        with running_sshd(folder / "sshd") as server, ssh_rig(folder, server) as rig:
            session = rig.board.connect()
            ratios = []
            for number in range(ROUNDS):
                file = random_file(folder / "file")
                ours = push_s(session, file)
                theirs = scp_s(server, file.path, folder / "copy")
                ratios.append(theirs / ours)
                print(
                    f"round {number + 1}: push {SIZE_BYTES / ours / 1e6:6.1f} MB/s, "
                    f"scp {SIZE_BYTES / theirs / 1e6:6.1f} MB/s, ratio {ratios[-1]:.2f}"
                )
            again = push(session, [file], lambda state: None)
            session.close()
    median = statistics.median(ratios)
    print(f"median ratio {median:.2f} (goal: at least {GOAL}); the same file again moved "
          f"{again.moved_bytes} bytes")  # fmt: skip
    return 0 if median >= GOAL and again.moved_bytes == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
