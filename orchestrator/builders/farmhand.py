"""What a Dask worker does for us; sent to it by value, so it needs the standard library alone."""

from __future__ import annotations

import contextlib
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import threading
from typing import IO


def converse(
    archive: bytes, digest: str, starter: str, home: str, said: bytes, topic: str
) -> bytes:
    """Run a builder on this worker with `said` as its input; returns what it answered.

    Its log lines go to whoever listens to `topic`, as they come. Raises RuntimeError with the
    builder's last words.
    """
    from distributed import get_worker  # noqa: PLC0415 - there, not here

    place = pathlib.Path(home).expanduser()
    code = place / "code" / digest
    if not code.is_dir():
        code.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=code.parent) as folder:
            new = pathlib.Path(folder) / "new"
            with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
                packed.extractall(new, filter="data")
            try:
                new.rename(code)
            except OSError:
                if not code.is_dir():
                    raise
    worker = get_worker()
    last: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-s", "-c", starter, str(code), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:

        def listen() -> None:
            for line in process.stderr or ():
                text = line.decode(errors="replace").rstrip()
                last.append(text)
                del last[:-20]
                worker.log_event(topic, text)

        ear = threading.Thread(target=listen, daemon=True)
        mouth = threading.Thread(target=_speak, args=(process.stdin, said), daemon=True)
        ear.start()
        mouth.start()
        answered = process.stdout.read() if process.stdout else b""
        ear.join()
        mouth.join()
    if process.returncode:
        raise RuntimeError(f"the builder ended with code {process.returncode}: " + " | ".join(last))
    return answered


def _speak(stream: IO[bytes], said: bytes) -> None:
    with contextlib.suppress(OSError):  # a builder that failed takes no more
        stream.write(said)
        stream.close()
