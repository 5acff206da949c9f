"""The builder: answers one host on stdin and stdout, and ends with it.

HOME/files/DIGEST/NAME   files that hosts sent
HOME/models/             its own store: what was built once is not built again
HOME/data/               procedural data sets
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import select
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from agent.wire import BenchError
from models.build import build_many, chain_of
from models.chain import VariantRequest, links
from models.errors import BuilderLost
from models.remote import frames, orders
from models.spec import TrainingSpec
from models.steps.kinds import PLAIN_LAYOUT
from models.store import Artifact, ArtifactStore

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


def main() -> None:
    """Serve the host at the other end of stdin and stdout.

    Arguments: the home, and `watch` where stdin stays open as long as the host is there, so that
    a build ends with it.
    """
    home = Path(sys.argv[1]).expanduser()
    if sys.argv[2:] == ["watch"]:
        _end_with_host(sys.stdin.fileno())
    with _private_stdout() as out:
        serve(sys.stdin.buffer, out, home)


def serve(source: IO[bytes], sink: IO[bytes], home: Path) -> None:
    """Answer until the host closes its end; raises BuilderLost for what no host says."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    sink.write(frames.READY)
    sink.flush()
    worker = Worker(source, sink, home)
    with contextlib.suppress(EOFError):
        while True:
            worker.answer()


class Worker:
    """One conversation. Each order has one answer, `build` any number of lines before it."""

    def __init__(self, source: IO[bytes], sink: IO[bytes], home: Path) -> None:
        self._source = source
        self._sink = sink
        self._home = home
        self._lock = threading.Lock()

    def answer(self) -> None:
        """Carry out the next order; raises EOFError where there is none."""
        try:
            order, size_bytes = frames.receive(self._source)
        except BuilderLost as exc:
            raise EOFError from exc
        match order.get("do"):
            case "hello":
                self._say(_hello())
            case "missing":
                self._say({"missing": self._missing(order["files"])})
            case "file":
                self._say(self._take(order["sha256"], order["names"], size_bytes))
            case "build":
                self._build(order["requests"], order["choices"], int(order["workers"]))
            case "fetch":
                self._fetch(order["sha256"])
            case other:
                raise BuilderLost(f"no order {other!r} is known")

    def _say(self, header: object, body: bytes | Path = b"") -> None:
        with self._lock:
            frames.send(self._sink, header, body)

    def _missing(self, files: dict[str, list[str]]) -> list[str]:
        folder = self._home / "files"
        return [
            digest
            for digest, names in files.items()
            if not all(orders.place(folder, _digest(digest), _name(n)).is_file() for n in names)
        ]

    def _take(self, digest: str, names: Sequence[str], size_bytes: int) -> dict[str, Any]:
        """Write a file, which appears under all its names when its digest is right."""
        folder = self._home / "files" / _digest(digest)
        places = [folder / _name(name) for name in names]
        folder.mkdir(parents=True, exist_ok=True)
        total = hashlib.sha256()
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new:
            taken, copy = Path(new) / "taken", Path(new) / "copy"
            with taken.open("wb") as file:
                for piece in frames.body(self._source, size_bytes):
                    total.update(piece)
                    file.write(piece)
            if total.hexdigest() != digest:
                return {"error": f"{digest} arrived as {total.hexdigest()}"}
            for place in places:
                shutil.copyfile(taken, copy)
                copy.replace(place)  # whole or not at all: another conversation may read it
        return {}

    def _build(
        self, requests: list[Any], choices: list[list[dict[str, str]]], workers: int
    ) -> None:
        """Build all, and say how each ended: its chain of digests, or its error.

        `choices` are those of the host, link by link.
        """
        read = orders.read_order(requests, self._home / "files", self._home / "data")
        store = ArtifactStore(self._home / "models")
        reasons = {training: _other_data(training) for training in {r.training for r in read}}
        unfit = [  # a large set is read once
            reasons[request.training] or _other_choices(request, wanted)
            for request, wanted in zip(read, choices, strict=True)
        ]
        results: list[Artifact | BenchError | str] = list(unfit)  # type: ignore[arg-type]
        fit = [index for index, reason in enumerate(unfit) if reason is None]
        made = build_many([read[index] for index in fit], store, workers, self._log)
        for index, result in zip(fit, made, strict=True):
            results[index] = result
        self._say({"results": [_told(*pair, store) for pair in zip(read, results, strict=True)]})

    def _log(self, line: str) -> None:
        """Tell the host; on stderr too, which another transport may show sooner."""
        self._say({"log": line})
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def _fetch(self, sha256: str) -> None:
        artifact = ArtifactStore(self._home / "models").find(_digest(sha256))
        if artifact is None:
            self._say({"error": f"{sha256} is not in this builder's store"})
            return
        manifest = artifact.path.with_suffix(".json").read_text()
        self._say({"manifest": manifest}, artifact.path)


def _told(
    request: VariantRequest, result: Artifact | BenchError | str, store: ArtifactStore
) -> dict[str, Any]:
    """How a request ended, in JSON."""
    if isinstance(result, Artifact):
        return {"chain": chain_of(request, store)}
    if isinstance(result, str):
        return {"error": result, "kind": "BuilderUnfit"}
    return {"error": str(result), "kind": type(result).__name__}


def _other_data(training: TrainingSpec | None) -> str | None:
    """Why the images here are not those that the host means, or None."""
    from models.data.training import training_spec  # noqa: PLC0415 - numpy and pillow

    if training is None:
        return None
    try:
        here = training_spec(training.data, training.val, training.images, training.cache)
    except BenchError as exc:
        return str(exc)
    if here.digest == training.digest:
        return None
    return f"{training.data.source}: the images or labels here are not those of the host"


def _other_choices(request: VariantRequest, wanted: list[dict[str, str]]) -> str | None:
    """Why this CPU would make a file that the host's does not understand, or None.

    A plain layout is understood everywhere.
    """
    for link, theirs in zip(links(request), wanted, strict=True):
        own = link.choices
        if own != theirs and own != theirs | {"layout": PLAIN_LAYOUT}:
            return (
                f"{request.label}: step {link.step.name} lays a file out for the CPU that makes it "
                f"({own}), and the host needs {theirs}: build this variant on the host"
            )
    return None


def _hello() -> dict[str, Any]:
    """Versions of every package here, by its normalised name."""
    found = {
        dist.metadata["Name"].lower().replace("_", "-"): dist.version
        for dist in importlib.metadata.distributions()
        if dist.metadata["Name"]
    }
    return {"python": platform.python_version(), "cpu_count": os.cpu_count(), "packages": found}


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise BuilderLost(f"{text!r} is no digest")
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise BuilderLost(f"{text!r} is no file name")
    return text


def _end_with_host(stdin: int) -> None:
    """End this process when its input is closed, also in the middle of a build.

    Asked for with poll, which takes nothing from the stream; children end with their parent.
    """
    closed = select.poll()
    half_closed = getattr(select, "POLLRDHUP", 0)  # Linux has it
    closed.register(stdin, select.POLLHUP | select.POLLERR | half_closed)

    def watch() -> None:
        while not closed.poll(1000):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="host-watch", daemon=True).start()


@contextlib.contextmanager
def _private_stdout() -> Iterator[IO[bytes]]:
    """The real stdout for frames alone: what libraries print goes to stderr instead."""
    with os.fdopen(os.dup(1), "wb") as stream:
        os.dup2(2, 1)
        yield stream


if __name__ == "__main__":
    main()
