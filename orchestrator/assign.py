"""From a plan to each board's work.

Variants are built for the board's instruction set, or named as impossible with the reason, and
each trial gets its specification and files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent import wire
from models import zoo
from models.build import VariantRequest, build_many, steps_missing
from models.spec import ModelSpec
from models.store import Artifact, ArtifactStore
from orchestrator.buildprogress import Builds
from orchestrator.errors import ExperimentError
from orchestrator.execute import Assignment, Work
from orchestrator.gate import Gate
from orchestrator.past import Past
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.prepare import TIMED_IMAGES, Prepared
from orchestrator.score import require_shared_classes
from orchestrator.transfer import File

BUILD_WORKERS = 2

BuildMany = Callable[
    [Sequence[VariantRequest], ArtifactStore, int, Callable[[str], None]],
    list[Artifact | wire.BenchError],
]
"""See models.build.build_many; a builder elsewhere does the same."""

VariantKey = tuple[str, str]
"""Model and recipe, by the names of the experiment."""


@dataclass(frozen=True)
class BuiltVariant:
    """An artifact for one instruction set, and how it is fed and read."""

    artifact: Artifact
    model: ModelSpec
    """Complete: an export has told what the file expects and gives."""

    @property
    def format(self) -> wire.ModelFormat:
        """The file's format, one that boards run; raises ValueError for a bare network."""
        if self.artifact.format == "net":
            raise ValueError(f"{self.artifact.sha256}: a network was not exported")
        return self.artifact.format


Built = Mapping[tuple[str, str, str], BuiltVariant | wire.BenchError]
"""By model, recipe and instruction set."""


def requests(prepared: Prepared, isas: Sequence[str]) -> dict[tuple[str, str, str], VariantRequest]:
    """What has to exist before boards of these instruction sets can measure."""
    return {
        (model_name, recipe_name, isa): prepared.request(model, recipe, isa)
        for isa in sorted(set(isas))
        for model_name, recipe_name, model, recipe in prepared.variants()
    }


def build_all(
    prepared: Prepared,
    isas: Sequence[str],
    store: ArtifactStore,
    log: Callable[[str], None],
    build_many: BuildMany = build_many,
    watch: Builds | None = None,
) -> Built:
    """Build what is not cached; a variant that cannot be built is an error in its place.

    `watch` is told how far each build is.
    """
    wanted = requests(prepared, isas)
    watched = watch or Builds()
    watched.begin({one.label: steps_missing(one, store) for one in wanted.values()})

    def hear(line: str) -> None:
        watched.hear(line)
        log(line)

    results = build_many(list(wanted.values()), store, BUILD_WORKERS, hear)
    watched.end()
    return {
        key: result
        if isinstance(result, wire.BenchError)
        else _completed(prepared, prepared.models[key[0]], result)
        for key, result in zip(wanted, results, strict=True)
    }


def _completed(
    prepared: Prepared, model: ModelSpec, artifact: Artifact
) -> BuiltVariant | wire.BenchError:
    """The variant, or why its accuracy cannot be had, which an export may be the first to tell."""
    complete = zoo.complete(model, artifact)
    try:
        if prepared.scored is not None:
            require_shared_classes(complete, prepared.scored.subset)
    except ExperimentError as exc:
        return exc
    return BuiltVariant(artifact, complete)


def assign(
    plan: Plan, prepared: Prepared, prints: Mapping[str, wire.Fingerprint], built: Built, past: Past
) -> dict[str, Assignment]:
    """Each board's assignment, in the plan's order, less what is finished; a pure function."""
    cooldown = prepared.experiment.cooldown
    gate = None if cooldown is None else Gate(cooldown.max_temp_c, cooldown.timeout_s)
    assignments = {}
    for board, trials in plan.boards.items():
        work, impossible = [], []
        for trial in trials:
            if (board, trial.trial_id) in past.finished:
                continue
            key = (trial.model, trial.recipe, prints[board].isa)
            variant = built[key]
            runtime = prepared.recipes[trial.recipe].runtime
            reason = (
                past.other_board(board, prints[board])
                or lacking(board, runtime, prints[board])
                or _obstacle(key, variant, past)
            )
            if reason is not None or isinstance(variant, wire.BenchError):
                impossible.append((trial, reason or str(variant)))
            else:
                before = past.attempts.get((board, trial.trial_id), 0)
                work.append(_work(plan, prepared, trial, variant, before + 1))
        assignments[board] = Assignment(tuple(work), tuple(impossible), gate)
    return assignments


def lacking(board: str, runtime: wire.RuntimeName, known: wire.Fingerprint) -> str | None:
    """Why a board cannot run a runtime's files, in words; None where it has the runtime."""
    package = wire.RUNTIME_PACKAGES[runtime]
    if package in known.packages:
        return None
    return (
        f"{board} does not have the runtime {runtime} ({package}); put it there with "
        f"`orchestrator boards provision {board} --runtime {runtime}` (a local board runs in this "
        f"Python: `pip install {package}`)"
    )


def _obstacle(
    key: tuple[str, str, str], variant: BuiltVariant | wire.BenchError, past: Past
) -> str | None:
    if isinstance(variant, wire.BenchError):
        return str(variant)
    return past.other_artifact(key, variant.artifact.sha256)


def _work(
    plan: Plan, prepared: Prepared, trial: PlannedTrial, variant: BuiltVariant, first_attempt: int
) -> Work:
    artifact, scored = variant.artifact, prepared.scored
    files = [File(artifact.sha256, artifact.size_bytes, artifact.path)]
    prep = variant.model.prep
    images = scored.refs(TIMED_IMAGES) if prep is not None and scored is not None else ()
    evaluation = _evaluation(prepared, trial, variant.model)
    used = evaluation.images if evaluation is not None else images
    if scored is not None:
        files += [scored.files[image.image_id] for image in used]
    shapes = {} if images else dict(variant.model.shapes)
    spec = wire.TrialSpec(
        trial_id=trial.trial_id,
        run_id=plan.run_id,
        artifact=wire.ArtifactRef(
            sha256=artifact.sha256, size_bytes=artifact.size_bytes, format=variant.format
        ),
        options=trial.options,
        scenario=trial.scenario,
        inputs=wire.Inputs(
            images=images, prep=prep if images else None, shapes=shapes, seed=plan.seed
        ),
        deadline_ns=trial.deadline_ns,
        evaluation=evaluation,
        runtime=prepared.recipes[trial.recipe].runtime,
    )
    return Work(trial, spec, tuple(files), first_attempt)


def _fits_a_mask(head: wire.Head, prep: wire.ImagePrep) -> bool:
    """False where what a board would have to report of an image is too large."""
    return isinstance(head, wire.DetectHead) or prep.height * prep.width <= wire.MAX_MASK_PIXELS


def _evaluation(
    prepared: Prepared, trial: PlannedTrial, model: ModelSpec
) -> wire.Evaluation | None:
    """What the board evaluates; None where no accuracy can be had."""
    scored = prepared.scored
    if not (trial.evaluate and model.trained) or scored is None:
        return None
    if model.head is None or model.prep is None or not _fits_a_mask(model.head, model.prep):
        return None
    return wire.Evaluation(
        images=scored.refs(len(scored.subset.images)),
        prep=model.prep,
        head=model.head,
        max_duration_ns=trial.evaluation_cap_ns,
    )
