"""One command line of `run` turned into a job, and a job into what the user sees."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from models.store import ArtifactStore
from orchestrator import dryrun, experimentfile, final, past, tables
from orchestrator import experiment as experiments
from orchestrator import inventory as inventories
from orchestrator import workspace as workspaces
from orchestrator.boards.registry import make_board
from orchestrator.builders.choice import builder, find
from orchestrator.clock import SystemClock
from orchestrator.commands.options import listed
from orchestrator.dashboard import Display
from orchestrator.experiment import Experiment, is_path
from orchestrator.inventory import BoardEntry, Inventory
from orchestrator.past import Past
from orchestrator.plan import RunRequest
from orchestrator.prepare import resolve as resolve_names
from orchestrator.profiles import PROFILES
from orchestrator.progress import RunProgress
from orchestrator.record import new_run_id
from orchestrator.runner import Job, Report, Run
from orchestrator.workspace import Workspace
from results.queries import leaderboard
from results.store import Store

_SEED_BITS: Final = 31
FALLBACK_EXPERIMENT: Final = "demo"
VIRTUAL_PROFILE: Final = "smoke"


@dataclass(frozen=True)
class Asked:
    """What a command line asks for, read from the inventory and the experiment's file."""

    request: RunRequest
    experiment: Experiment
    inventory: Inventory
    workspace: Workspace
    entries: tuple[BoardEntry, ...]
    location: str | Path
    """The database."""
    resumed: bool = False
    """True where the request is that of a stored run."""


def resolve(
    boards: str | None,
    experiment: str | None,
    location: str | Path,
    inventory: Path | None,
    given: Mapping[str, Any],
) -> Asked:
    """Find workspace, boards and experiment; `given` has the other options by name.

    Where all boards are virtual and no profile is asked for, it is `smoke`: their times mean
    nothing, so more of them are no better. A file of the user's that spells its own numbers out
    keeps them.

    Raises InventoryError, ExperimentError, UnknownName.
    """
    place = workspaces.find(Path.cwd(), inventory)
    known = inventories.load(place.inventory)
    entries = () if boards is None else inventories.select(known, boards)
    request = _request(boards or "", experiment, given)
    find(request.build_on, known)  # an unknown builder is refused before any data is read
    chosen = _experiment(request, known, place)
    virtual = bool(entries) and all(entry.lab for entry in entries)
    own_file = request.experiment is not None and is_path(request.experiment)
    spelled_out = own_file and chosen.profile.name not in PROFILES
    if virtual and request.profile is None and not spelled_out:
        request = replace(request, profile=VIRTUAL_PROFILE)
        chosen = experiments.with_profile(chosen, VIRTUAL_PROFILE)
    return Asked(request, chosen, known, place, entries, location)


def recall(
    run_id: str | None, boards: str | None, location: str | Path, inventory: Path | None
) -> Asked:
    """What a stored run asked for, to go on with it; `boards` keeps some of its boards.

    Raises UnknownRun, ExperimentError, UnknownName (a board has left the inventory).
    """
    place = workspaces.find(Path.cwd(), inventory)
    known = inventories.load(place.inventory)
    with Store.open(location, create=False, read_only=True) as store:
        request, experiment = past.request_of(store, past.find_run(store, run_id).run_id)
    entries = inventories.select(known, boards or request.boards)
    return Asked(request, experiment, known, place, entries, location, resumed=True)


def _request(boards: str, experiment: str | None, given: Mapping[str, Any]) -> RunRequest:
    seed = given["seed"] if given["seed"] is not None else secrets.randbits(_SEED_BITS)
    return RunRequest(
        run_id=new_run_id(SystemClock().utc()),
        seed=seed,
        boards=boards,
        experiment=experiment,
        model=given["model"],
        recipes=listed(given["recipes"]),
        data=given["data"],
        calibration=given["calibration"],
        shapes=dict(given["shapes"]),
        imgsz=given["imgsz"],
        profile=given["profile"],
        threads=given["threads"],
        scale=given["scale"],
        build_on=given["build_on"],
    )


def _experiment(request: RunRequest, known: Inventory, place: Workspace) -> Experiment:
    """The experiment that is asked for, with the profile that was asked for."""
    if request.model is not None:
        chosen = experiments.adhoc(
            request.model,
            request.recipes or (experiments.DEFAULT_BASELINE,),
            base_dir=Path.cwd(),
            data=request.data,
            calibration=request.calibration,
            shapes=request.shapes,
            imgsz=request.imgsz,
        )
    else:
        named, base = request.experiment, Path.cwd()
        if named is None:
            named, base = known.default_experiment or FALLBACK_EXPERIMENT, place.root
        chosen = experimentfile.load(named, base, request.scale)
        if request.data is not None:
            chosen = experiments.with_data(chosen, request.data, Path.cwd())
        if request.recipes:
            chosen = experiments.with_recipes(chosen, request.recipes)
    return chosen if request.profile is None else experiments.with_profile(chosen, request.profile)


def measure(asked: Asked, *, as_json: bool, plain: bool) -> Report:
    """Run, then print the table from what was stored; errors of boards are in the report."""
    screen = tables.console(sys.stderr)
    live = screen.is_terminal and not plain and not as_json
    progress = RunProgress.of([entry.name for entry in asked.entries])
    display = Display(progress, screen, live=live)
    with Store.open(asked.location, create=True) as store:
        with display.shown(_title(asked)):
            before = past.recall(store, asked.request.run_id) if asked.resumed else None
            job = job_for(asked, display, before)
            report = Run(job, store, display, SystemClock()).go()
        _print(report, store, asked.experiment.baseline, as_json=as_json)
    return report


def _title(asked: Asked) -> str:
    chosen = asked.experiment
    scale = f" ({chosen.scale})" if chosen.scale else ""
    return f"{chosen.name}{scale} · {chosen.profile.name} · run {asked.request.run_id}"


def job_for(asked: Asked, display: Display, before: Past | None = None) -> Job:
    """Everything that a run needs, found and checked; raises as `prepare.resolve` does."""
    place = asked.workspace
    return Job(
        request=asked.request,
        experiment=asked.experiment,
        prepared=resolve_names(
            asked.experiment, place, display.note, elsewhere=asked.request.build_on is not None
        ),
        entries=asked.entries,
        boards=[make_board(entry, asked.inventory, place) for entry in asked.entries],
        artifacts=place.models,
        past=before,
        build_many=builder(find(asked.request.build_on, asked.inventory), asked.inventory),
    )


def _print(report: Report, store: Store, baseline: str, *, as_json: bool) -> None:
    rows = leaderboard(store, report.run_id, baseline)
    if as_json:
        click.echo(final.as_json(rows, report))
    elif rows:
        final.show(tables.console(), rows, baseline)
        click.echo(f"run {report.run_id} in {store.shown}")


def show_plan(asked: Asked) -> None:
    """What a run would do, from the last fingerprint of each board; nothing is contacted."""
    screen = tables.console(sys.stderr)
    display = Display(RunProgress.of([]), screen, live=False)
    prepared = resolve_names(asked.experiment, asked.workspace, display.note, absent=True)
    with opened_if_there(asked.location) as store:
        seen = dryrun.recall(store, asked.entries, [m.name for m in asked.experiment.models])
    foreseen = dryrun.foresee(asked.request, asked.experiment, asked.entries, seen)
    dryrun.show(tables.console(), foreseen, prepared, ArtifactStore(asked.workspace.models))


@contextmanager
def opened_if_there(location: str | Path) -> Iterator[Store | None]:
    """The database, for reading; None where no run has made one yet."""
    if isinstance(location, Path) and not location.exists():
        yield None
        return
    with Store.open(location, create=False, read_only=True) as store:
        yield store
