"""Makes artifacts: looks for what was built before, and runs the steps that are missing."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.wire import BenchError
from models.chain import Link, VariantRequest, Versions, fingerprint, links
from models.errors import BuildFailed, ModelsError
from models.pool import Job, run_jobs
from models.spec import CalibrationSpec, calibration
from models.steps import StepInput
from models.steps.base import Log
from models.store import Artifact, ArtifactStore

__all__ = [
    "CalibrationSpec",
    "VariantRequest",
    "build",
    "build_many",
    "calibration",
    "chain_of",
    "find_cached",
    "links_done",
    "remember_chain",
    "steps_missing",
]


def find_cached(
    request: VariantRequest, store: ArtifactStore, versions: Versions = None
) -> Artifact | None:
    """The artifact of an earlier build, its bytes verified; None where a step is missing.

    `versions` are those of a builder's packages. Imports neither onnx nor onnxruntime nor torch.
    Raises BuildFailed where the request cannot be built at all (no calibration data) or the store
    cannot be read.
    """
    try:
        digests = chain_of(request, store, versions)
        return store.find(digests[-1]) if digests else None
    except OSError as exc:
        raise BuildFailed(f"{request.label}: the cache {store.root} cannot be read: {exc}") from exc


def chain_of(
    request: VariantRequest, store: ArtifactStore, versions: Versions = None
) -> list[str] | None:
    """The sha256 of what each link made, in order; None where one never ran."""
    chain = links(request)
    digests = _remembered(chain, request, store, versions)
    return digests if len(digests) == len(chain) else None


def _remembered(
    chain: Sequence[Link], request: VariantRequest, store: ArtifactStore, versions: Versions = None
) -> list[str]:
    """The sha256 of what each link made, in order, up to the first one that never ran."""
    digests: list[str] = []
    for link in chain:
        parent = digests[-1] if digests else request.model.source.identity
        sha256 = store.lookup(link.key(parent, versions))
        if sha256 is None:
            break
        digests.append(sha256)
    return digests


def links_done(request: VariantRequest, store: ArtifactStore) -> int:
    """How many links need not run: those up to the last one whose artifact is in the store."""
    digests = _remembered(links(request), request, store)
    there = (index for index, sha256 in enumerate(digests, start=1) if store.holds(sha256))
    return max(there, default=0)


def steps_missing(request: VariantRequest, store: ArtifactStore) -> int:
    """How many steps of a request have not been done yet; 0 where it cannot be built at all."""
    try:
        return len(links(request)) - links_done(request, store)
    except BenchError:
        return 0


def remember_chain(
    request: VariantRequest, store: ArtifactStore, digests: Sequence[str], versions: Versions = None
) -> None:
    """Record what each link made elsewhere."""
    parent = request.model.source.identity
    for link, sha256 in zip(links(request), digests, strict=True):
        store.remember(link.key(parent, versions), sha256)
        parent = sha256


def build(request: VariantRequest, store: ArtifactStore, log: Log) -> Artifact:
    """The artifact of a request; steps that ran before on the same input do not run again.

    A failed step raises a ModelsError that names model, recipe and step, and leaves nothing
    behind: BuildFailed, NothingQuantized, ExtraMissing, ModelNotFound or ModelUnreadable.
    """
    cached = find_cached(request, store)
    if cached is not None:
        return cached
    chain = links(request)
    digests = _remembered(chain, request, store)
    parent: Artifact | None = None
    # From the last artifact that is whole: what it was made from may be gone, or on a builder.
    while digests and (parent := store.find(digests[-1])) is None:
        digests.pop()
    for link in chain[len(digests) :]:
        parent = _advance(request, link, parent, store, log)
    if parent is None:
        raise BuildFailed(f"{request.label}: the chain has no steps")
    return parent


def build_many(
    requests: Sequence[VariantRequest],
    store: ArtifactStore,
    workers: int,
    on_log: Log,
) -> list[Artifact | BenchError]:
    """Build all requests, at most `workers` at once; errors are returned, one per request.

    Requests that come to the same artifact are built once, and a request whose chain continues
    another's waits for it. With one build missing, or one worker, no process is started.
    `on_log` may be called from another thread.
    """
    answers: dict[int, Artifact | BenchError] = {}
    jobs: dict[tuple[str, ...], Job] = {}
    members: dict[tuple[str, ...], list[int]] = {}
    for index, request in enumerate(requests):
        try:
            cached = find_cached(request, store)
            chain = fingerprint(request)
        except BenchError as exc:
            answers[index] = exc
            continue
        if cached is not None:
            answers[index] = cached
            continue
        jobs.setdefault(chain, Job(chain, request.label, request, _long(request, chain, store)))
        members.setdefault(chain, []).append(index)
    work = _Work(store.root)
    for chain, result in run_jobs(list(jobs.values()), work, workers, on_log).items():
        for index in members[chain]:
            answers[index] = result
    return [answers[index] for index in range(len(requests))]


def _long(
    request: VariantRequest, chain: tuple[str, ...], store: ArtifactStore
) -> frozenset[tuple[str, ...]]:
    """Beginnings of a chain that end in a training which is still to be done."""
    done = links_done(request, store)
    return frozenset(
        chain[: index + 1]
        for index, link in enumerate(links(request), start=1)
        if index > done and link.step.needs_training
    )


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a build process does with a request; sent to it, so it holds a path only."""

    root: Path

    def __call__(self, request: VariantRequest, log: Log) -> Artifact | BenchError:
        try:
            return build(request, ArtifactStore(self.root), log)
        except BenchError as exc:
            return exc


def _advance(
    request: VariantRequest, link: Link, parent: Artifact | None, store: ArtifactStore, log: Log
) -> Artifact:
    """The artifact of one link: found, or made under the lock of its key."""
    key = link.key(parent.sha256 if parent else request.model.source.identity)
    found = _found(key, store)
    if found is not None:
        return found
    where = f"{request.label}: step {link.step.name}"
    try:
        with store.lock(key, lambda: log(f"{where}: another process is building it; waiting")):
            found = _found(key, store)
            if found is None:
                log(where)
                resume = store.resume_folder(key)
                found = _run(
                    request, link, parent, store, lambda text: log(f"{where}: {text}"), resume
                )
                store.remember(key, found.sha256)
                shutil.rmtree(resume, ignore_errors=True)
            return found
    except ModelsError as exc:
        raise type(exc)(f"{where}: {exc}") from exc
    except Exception as exc:
        # Quantizers, exporters and file systems raise anything; this is the edge.
        raise BuildFailed(f"{where}: {type(exc).__name__}: {exc}") from exc


def _found(key: str, store: ArtifactStore) -> Artifact | None:
    sha256 = store.lookup(key)
    return store.find(sha256) if sha256 is not None else None


def _run(
    request: VariantRequest,
    link: Link,
    parent: Artifact | None,
    store: ArtifactStore,
    log: Log,
    resume: Path,
) -> Artifact:
    """Run one step in a scratch folder and take its file into the store."""
    from models.manifest import describe_result  # noqa: PLC0415 - imports onnx and onnxruntime

    with store.workdir() as work:
        given = StepInput(
            source=parent.path if parent else None,
            model=request.model,
            isa=request.isa,
            params=msgspec.convert(link.params, link.step.params),
            choices=link.choices,
            calibration=request.calibration if link.step.needs_calibration else None,
            work=work,
            cache=store.root / "weights",
            log=log,
            training=request.training if link.step.needs_training else None,
            others={name: build(other, store, log).path for name, other in link.others.items()},
            resume=resume,
        )
        result = link.step.run(given)
        return store.add(result.path, describe_result(request, link, parent, result, work))
