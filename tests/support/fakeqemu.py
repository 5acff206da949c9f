"""Stands for QEMU in tests: a daemon that answers the machine protocol and says it is an sshd.

It takes the options that the lab passes, boots nothing, and notes what it was asked in
`asked.txt` of the board's folder. `refuse.txt` there has words to fail with, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path

Path("argv.txt").write_text("\n".join(sys.argv[1:]))
text = " ".join(sys.argv)


def fail(words: str) -> None:
    sys.stderr.write(f"qemu-system-aarch64: {words}\n")
    sys.exit(1)


if (refusal := Path("refuse.txt")).exists():
    words = refusal.read_text()
    refusal.unlink()
    fail(words)
port = int(re.findall(r"hostfwd=tcp:127\.0\.0\.1:(\d+)-", text)[0])
sshd = socket.socket()
sshd.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    sshd.bind(("127.0.0.1", port))
except OSError:
    fail(f"Could not set up host forwarding rule 'tcp:127.0.0.1:{port}'")
sshd.listen()
monitor = socket.socket(socket.AF_UNIX)
monitor.bind("monitor")
monitor.listen()
folder = Path.cwd()

if os.fork():
    os._exit(0)
os.setsid()
nothing = os.open(os.devnull, os.O_RDWR)
for stream in range(3):
    os.dup2(nothing, stream)
(folder / "console.log").write_text("booting\nfake kernel says \x1b[2Jhello\n")


def introduce() -> None:
    while True:
        with sshd.accept()[0] as visitor, contextlib.suppress(OSError):
            visitor.sendall(b"SSH-2.0-fake\r\n")


threading.Thread(target=introduce, daemon=True).start()
stubborn = (folder / "stubborn.txt").exists()
while True:
    client = monitor.accept()[0]
    with client, client.makefile("rw", encoding="utf-8") as lines:
        lines.write('{"QMP": {"version": {}}}\n')
        lines.flush()
        for line in lines:
            asked = json.loads(line)
            with (folder / "asked.txt").open("a") as notes:
                notes.write(f"{asked['execute']} {json.dumps(asked.get('arguments', {}))}\n")
            lines.write('{"event": "SOMETHING"}\n{"return": {}}\n')
            lines.flush()
            if asked["execute"] == "quit" and not stubborn:
                os._exit(0)
