"""The host's end of a conversation with a builder; its artifacts come into the own store."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from agent.wire import BenchError
from models import errors
from models.build import find_cached, remember_chain
from models.chain import VariantRequest, links
from models.errors import BuilderLost, BuilderUnfit, BuildFailed, ModelsError
from models.remote import frames, orders
from models.spec import file_digest
from models.steps.base import NOT_INSTALLED
from models.store import Artifact, ArtifactStore, Manifest

Log = Callable[[str], None]
Result = Artifact | BenchError

_FILES_AT_ONCE: Final = 64
"""Their answers fit any pipe, so that neither side waits for the other to read."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class BuilderClient:
    """Orders to one builder over a pair of streams; it has said that it is ready."""

    def __init__(self, source: IO[bytes], sink: IO[bytes], paths: Mapping[str, str]) -> None:
        self._source = source
        self._sink = sink
        self._paths = paths
        hello, _ = self._ask({"do": "hello"})
        self.versions = _versions(hello)

    def build_many(
        self, requests: Sequence[VariantRequest], store: ArtifactStore, workers: int, log: Log
    ) -> list[Result]:
        """As models.build.build_many, elsewhere; what is in `store` already is not built again.

        Raises BuilderLost where the connection ends.
        """
        answers: dict[int, Result] = {}
        missing: dict[int, VariantRequest] = {}
        for index, request in enumerate(requests):
            try:
                cached = find_cached(request, store)
                cached = cached or find_cached(request, store, self.versions)
                if cached is None:
                    self._require_tools(request)
            except BenchError as exc:
                answers[index] = exc
                continue
            if cached is not None:
                answers[index] = cached
            else:
                missing[index] = request
        if missing:
            results = self._order(list(missing.values()), store, workers, log)
            answers |= dict(zip(missing, results, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _require_tools(self, request: VariantRequest) -> None:
        absent = {
            tool
            for link in links(request)
            for tool, version in link.tools(self.versions).items()
            if version == NOT_INSTALLED
        }
        if absent:
            raise BuilderUnfit(
                f"{request.label}: the builder's Python lacks {', '.join(sorted(absent))}; install "
                "them there: python -m pip install -e '.[models]' in a checkout"
            )

    def _order(
        self, requests: list[VariantRequest], store: ArtifactStore, workers: int, log: Log
    ) -> list[Result]:
        try:
            order = orders.write_order(requests, self._paths)
        except ModelsError as exc:
            return [exc for _ in requests]
        self._push(order, log)
        choices = [[link.choices for link in links(request)] for request in requests]
        frames.send(
            self._sink,
            {"do": "build", "requests": order.requests, "choices": choices, "workers": workers},
        )
        told = self._await_results(log)
        if len(told) != len(requests):
            raise BuilderLost(f"{len(told)} results came for {len(requests)} orders")
        return [self._take(*pair, store) for pair in zip(requests, told, strict=True)]

    def _push(self, order: orders.Order, log: Log) -> None:
        """Send the files that the builder does not have."""
        names = orders.names_of(order.requests)
        wanted = {digest: sorted(names[digest]) for digest in order.files}
        answer, _ = self._ask({"do": "missing", "files": wanted})
        lacking = [digest for digest in answer.get("missing", []) if digest in order.files]
        if lacking:
            size_bytes = sum(order.files[digest].stat().st_size for digest in lacking)
            log(f"sending {len(lacking)} files, {size_bytes / 1e6:.1f} MB")
        for start in range(0, len(lacking), _FILES_AT_ONCE):
            batch = lacking[start : start + _FILES_AT_ONCE]
            for digest in batch:
                header = {"do": "file", "sha256": digest, "names": wanted[digest]}
                frames.send(self._sink, header, order.files[digest])
            for _ in batch:
                answer, _ = self._receive()
                if "error" in answer:
                    raise BuilderLost(f"a file did not arrive whole: {answer['error']}")

    def _await_results(self, log: Log) -> list[dict[str, Any]]:
        while True:
            answer, _ = self._receive()
            if "results" in answer:
                results = answer["results"]
                if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
                    raise BuilderLost("the builder's results cannot be read")
                return results
            log(str(answer.get("log", ""))[:1000])

    def _take(self, request: VariantRequest, told: dict[str, Any], store: ArtifactStore) -> Result:
        """A result: its file is fetched, and every link remembered as if it had been made here."""
        if "error" in told:
            return _error(str(told.get("kind")), f"{told['error']}")
        chain = told.get("chain")
        if (
            not isinstance(chain, list)
            or len(chain) != len(links(request))
            or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in chain)
        ):
            raise BuilderLost(f"{request.label}: the builder's chain of steps cannot be read")
        artifact = store.find(chain[-1]) or self._fetch(request, chain[-1], store)
        remember_chain(request, store, chain, self.versions)
        if _absent_here(request):
            # Nothing here could make another result, so whatever version made it counts.
            remember_chain(request, store, chain)
        return artifact

    def _fetch(self, request: VariantRequest, sha256: str, store: ArtifactStore) -> Artifact:
        answer, size_bytes = self._ask({"do": "fetch", "sha256": sha256})
        if "error" in answer:
            raise BuilderLost(f"{request.label}: {answer['error']}")
        with store.workdir() as work:
            file = work / "artifact"
            with file.open("wb") as out:
                for piece in frames.body(self._source, size_bytes):
                    out.write(piece)
            try:
                manifest = msgspec.json.decode(str(answer.get("manifest")), type=Manifest)
            except msgspec.MsgspecError as exc:
                raise BuilderLost(f"{request.label}: its manifest cannot be read: {exc}") from exc
            found = file_digest(file)
            if not found == sha256 == manifest.sha256 or size_bytes != manifest.size_bytes:
                raise BuilderLost(
                    f"{request.label}: the builder promised {sha256[:12]} and sent {found[:12]}"
                )
            return store.add(file, manifest)

    def _ask(self, header: dict[str, Any]) -> tuple[dict[str, Any], int]:
        frames.send(self._sink, header)
        return self._receive()

    def _receive(self) -> tuple[dict[str, Any], int]:
        return frames.receive(self._source)


def _versions(hello: Mapping[str, Any]) -> dict[str, str]:
    packages = hello.get("packages")
    if not isinstance(packages, dict):
        raise BuilderLost("the builder did not say which packages it has")
    return {str(name): str(version) for name, version in packages.items()}


def _absent_here(request: VariantRequest) -> bool:
    """True where a step of the chain could not be done on this machine at all."""
    return any(NOT_INSTALLED in link.tools().values() for link in links(request))


def _error(kind: str, message: str) -> BenchError:
    """The error of a build, as the class that it has there; BuildFailed where that is unknown."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, ModelsError):
        return found(message)
    return BuildFailed(message)


def code_files() -> dict[str, Path]:
    """The code of this version that a builder runs, by its path below the code's root."""
    root = Path(__file__).resolve().parents[2]
    found = {}
    for package in ("agent", "models"):
        for folder, _, names in os.walk(root / package):
            for name in names:
                path = Path(folder) / name
                if path.suffix in (".py", ".yaml", ".onnx", ".lock", ".json"):
                    found[path.relative_to(root).as_posix()] = path
    return dict(sorted(found.items()))
