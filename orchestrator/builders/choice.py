"""`--build-on`: from a name or an address to something that builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.wire import BenchError
from models import build
from models.chain import VariantRequest
from models.errors import BuilderLost, ExtraMissing
from models.store import Artifact, ArtifactStore
from orchestrator.assign import BuildMany
from orchestrator.builders import dask, ssh
from orchestrator.builders.entry import BuilderEntry, check_scheduler
from orchestrator.errors import UnknownName, unknown_name
from orchestrator.inventory import Inventory
from orchestrator.text import printable

Log = Callable[[str], None]


def find(choice: str | None, known: Inventory) -> BuilderEntry | None:
    """The builder that is meant; None means this machine. Raises UnknownName."""
    if choice is None:
        return None
    if "://" in choice:
        try:
            check_scheduler(choice)
        except ValueError as exc:
            raise UnknownName(f"--build-on: {exc}") from exc
        return BuilderEntry(name=choice, kind="dask", address=choice)
    if choice not in known.builders:
        raise unknown_name("builder", choice, known.builders)
    return known.builders[choice]


def builder(entry: BuilderEntry | None, known: Inventory) -> BuildMany:
    """What builds: this machine's processes, or a builder.

    A builder is only asked for what is not in the store already; where it cannot be reached,
    that is the error of every variant that it should have made.
    """
    if entry is None:
        return build.build_many

    def build_many(
        requests: Sequence[VariantRequest], store: ArtifactStore, _workers: int, log: Log
    ) -> list[Artifact | BenchError]:
        def say(line: str) -> None:
            log(f"{entry.name}: {printable(line)}")

        cached = [_cached(request, store) for request in requests]
        missing = [index for index, found in enumerate(cached) if found is None]
        results: dict[int, Artifact | BenchError] = {
            index: found for index, found in enumerate(cached) if found is not None
        }
        if missing:
            wanted = [requests[index] for index in missing]
            made = _elsewhere(entry, known, wanted, store, say)
            results |= dict(zip(missing, made, strict=True))
        return [results[index] for index in range(len(requests))]

    return build_many


def _cached(request: VariantRequest, store: ArtifactStore) -> Artifact | BenchError | None:
    try:
        return build.find_cached(request, store)
    except BenchError as exc:
        return exc


def _elsewhere(
    entry: BuilderEntry,
    known: Inventory,
    wanted: Sequence[VariantRequest],
    store: ArtifactStore,
    log: Log,
) -> list[Artifact | BenchError]:
    opened = dask.opened(entry) if entry.kind == "dask" else ssh.opened(entry, known.ssh_config)
    try:
        with opened as there:
            return there.build_many(wanted, store, entry.workers, log)
    except (BuilderLost, ExtraMissing) as exc:
        return [type(exc)(f"{request.label}: {exc}") for request in wanted]
