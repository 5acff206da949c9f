"""From events to rows of a real database: boards, trials, and the accuracy of what was detected."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from support.jobs import MOMENT, adhoc, prepare, truth, voc, workspace
from support.runs import fake_board

from agent import wire
from models.store import ArtifactStore
from orchestrator.assign import Built, assign, build_all
from orchestrator.events import BoardConnected, GateResult, TrialEnded
from orchestrator.past import Past
from orchestrator.plan import BoardFacts, RunRequest, make_plan
from orchestrator.prepare import Prepared
from orchestrator.record import Recorder, host_facts, new_run_id
from orchestrator.runner import run_record
from results.errors import RecordRefused
from results.matches import decoded
from results.precision import mean_average_precision
from results.store import Store

NAMES = ("triangle", "circle", "ring", "bus")
"""In another order than the detector's, with one that it does not know."""


Reported = Sequence[wire.ImageDetections] | None


@dataclasses.dataclass(frozen=True)
class Kit:
    """The shipped detector, built, with a data set; made once, for nothing here changes it."""

    prepared: Prepared
    built: Built

    @classmethod
    def make(cls, folder: Path, images: int) -> Kit:
        data = voc(folder / "voc", NAMES, {"val": images})
        prepared = prepare(folder, adhoc(folder, "tinydet", data=str(data)))
        store = ArtifactStore(workspace(folder).models)
        return cls(prepared, build_all(prepared, ["aarch64-dotprod"], store, lambda line: None))


class Bench:
    """A database with a run of the detector on one board, ready for its first trial."""

    def __init__(self, store: Store, kit: Kit) -> None:
        self.store, self.prepared, built = store, kit.prepared, kit.built
        request = RunRequest("r1", 7, "pi")
        store.record_run(run_record(request, self.prepared.experiment, MOMENT))
        self.recorder = Recorder(store, "r1", self.prepared)
        self.recorder.built(built)
        agent = fake_board("pi").agent
        hello = agent._hello(wire.encode(wire.HelloRequest(protocol=wire.PROTOCOL, host="h")))
        self.connected = BoardConnected("pi", hello, MOMENT)
        self.recorder.hear(self.connected)
        facts = {"pi": BoardFacts("aarch64-dotprod", 4)}
        plan = make_plan(request, self.prepared.experiment, facts)
        prints = {"pi": hello.fingerprint}
        self.work = assign(plan, self.prepared, prints, built, Past())["pi"].work
        assert self.prepared.scored is not None
        self.subset = self.prepared.scored.subset

    def ended(self, detections: Reported, **changes: object) -> TrialEnded:
        """A finished trial that reported these detections."""
        work = self.work[0]
        outcome = wire.Outcome(
            trial_id=work.spec.trial_id, state="finished", failure=None, short=False,
            load_ns=5, peak_rss_bytes=6, runtime_version="1", runtime_settings={},
            inputs_kind="images", sources=self.connected.hello.sources, evaluation=None,
            started_monotonic_ns=10, first_call_monotonic_ns=11,
            ended_monotonic_ns=20, parts={},
        )  # fmt: skip
        samples = wire.Samples((1, 1, 8), array("Q", [1000] * 10), array("Q", [1] * 10))
        ended = TrialEnded(
            "pi", work.trial, work.spec, 1, outcome, samples, (), detections,
            GateResult(None, 0.0, None), MOMENT, MOMENT,
        )  # fmt: skip
        return dataclasses.replace(ended, **changes)  # type: ignore[arg-type]

    def right(self, count: int = 99, index: int | None = None) -> list[wire.ImageDetections]:
        """What a perfect detector reports of the first images, in its own class indices."""
        model = self.prepared.models["tinydet"].class_names
        reported = []
        for image_id, (class_index, box) in list(truth(self.subset).items())[:count]:
            name = NAMES[class_index]
            own = index if index is not None else model.index(name) if name in model else 5
            found = (wire.Detection(*box, score=0.9, class_index=own),)
            reported.append(wire.ImageDetections(image_id=image_id, detections=found))
        return reported

    def evaluations(self) -> list[dict[str, object]]:
        return [dict(row) for row in self.store.rows("SELECT * FROM evaluations")]

    def trials(self) -> list[dict[str, object]]:
        return [dict(row) for row in self.store.rows("SELECT * FROM v_trials")]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit.make(tmp_path_factory.mktemp("kit"), images=6)


@pytest.fixture
def bench(tmp_path: Path, kit: Kit) -> Iterator[Bench]:
    with Store.open(tmp_path / "results.sqlite", create=True) as store:
        yield Bench(store, kit)


def test_a_trial_with_accuracy(bench: Bench) -> None:
    """A perfect detector scores 1 on the classes that it knows, and set and count are stored."""
    bench.recorder.hear(bench.ended(bench.right()))
    (row,) = bench.evaluations()
    known = {name for name, _ in _per_class(bench)}
    assert (row["set_name"], row["split"], row["images"]) == ("voc", "val", 4)
    assert (row["place"], row["evaluator"], row["subset_seed"]) == ("board", "hotcoco", 0)
    assert known <= set(NAMES)
    assert all(score == pytest.approx(1.0) for name, score in _per_class(bench) if name != "bus")
    (trial,) = bench.trials()
    assert (trial["model"], trial["variant"], trial["block"]) == ("tinydet", "fp32", 0)
    assert trial["p50_ms"] == pytest.approx(0.001)
    assert bench.recorder.finished == 1


def _per_class(bench: Bench) -> list[tuple[str, float]]:
    (row,) = bench.evaluations()
    return list(msgspec.json.decode(str(row["per_class_json"])).items())


def test_what_was_right_is_stored(bench: Bench) -> None:
    """The figures follow from what is stored of each image, in the order of the set."""
    bench.recorder.hear(bench.ended(bench.right()))
    (row,) = bench.evaluations()
    images = bench.store.rows("SELECT * FROM image_scores ORDER BY place")
    assert [image["image_id"] for image in images] == [i.image_id for i in bench.subset.images]
    matches = [decoded(str(image["matches_json"])) for image in images]
    assert mean_average_precision(matches) == pytest.approx((row["map50"], row["map50_95"]))


def test_class_indices_are_translated(bench: Bench) -> None:
    """The model's class numbers are not the data set's: taken as they are, nothing would match."""
    bench.recorder.hear(bench.ended(bench.right(index=4)))  # 'star', which the set has not
    (row,) = bench.evaluations()
    assert row["map50"] == 0.0


def test_capped_evaluation(bench: Bench) -> None:
    """An evaluation that the time cap ended is scored on the images it did, not on all."""
    bench.recorder.hear(bench.ended(bench.right(2)))
    (row,) = bench.evaluations()
    assert row["images"] == 2
    names = {NAMES[truth(bench.subset)[found.image_id][0]] for found in bench.right(2)}
    assert {name for name, _ in _per_class(bench)} == names


def test_whole_set(tmp_path: Path) -> None:
    """Where the subset is the whole split, no seed is claimed."""
    with Store.open(tmp_path / "results.sqlite", create=True) as store:
        bench = Bench(store, Kit.make(tmp_path, images=4))
        bench.recorder.hear(bench.ended(bench.right()))
        (row,) = bench.evaluations()
    assert (row["images"], row["subset_seed"]) == (4, None)


@pytest.mark.parametrize("detections", [None, ()])
def test_no_detections(bench: Bench, detections: Reported) -> None:
    """A trial that evaluated nothing has no accuracy, which is not an accuracy of zero."""
    bench.recorder.hear(bench.ended(detections))
    (trial,) = bench.trials()
    assert (bench.evaluations(), trial["map50"], bench.recorder.unscored) == ([], None, {})


def test_nothing_found(bench: Bench) -> None:
    """Images in which nothing was found count, with an accuracy of zero."""
    empty = [wire.ImageDetections(image_id=i.image_id, detections=()) for i in bench.subset.images]
    bench.recorder.hear(bench.ended(empty))
    (row,) = bench.evaluations()
    assert (row["images"], row["map50"]) == (4, 0.0)


def test_detections_of_strange_images(bench: Bench) -> None:
    """Detections that cannot be scored are told, and the times are stored all the same."""
    strange = [wire.ImageDetections(image_id="nobody knows it", detections=())]
    bench.recorder.hear(bench.ended(strange))
    (trial,) = bench.trials()
    assert trial["p50_ms"] is not None
    assert bench.evaluations() == []
    error = bench.recorder.unscored["pi", "tinydet/fp32"]
    assert "pi: tinydet/fp32: " in str(error)


def test_a_class_that_no_model_has(bench: Bench) -> None:
    """A class index out of any range is dropped like any class that the set does not have."""
    bench.recorder.hear(bench.ended(bench.right(index=10**12)))
    assert [row["map50"] for row in bench.evaluations()] == [0.0]


def test_attempts_share_the_plans_id(bench: Bench) -> None:
    """A second attempt has a name of its own on the board and the plan's in the database."""
    first = bench.ended(None)
    cut = dataclasses.replace(
        first, outcome=msgspec.structs.replace(first.outcome, state="interrupted"), samples=None
    )
    bench.recorder.hear(cut)
    spec = msgspec.structs.replace(first.spec, trial_id="f" * 32)
    outcome = msgspec.structs.replace(first.outcome, trial_id="f" * 32)
    bench.recorder.hear(dataclasses.replace(first, spec=spec, outcome=outcome, attempt=2))
    rows = bench.store.rows("SELECT trial_id, attempt, state FROM trials ORDER BY attempt")
    assert [(row["trial_id"], row["attempt"], row["state"]) for row in rows] == [
        (first.trial.trial_id, 1, "interrupted"),
        (first.trial.trial_id, 2, "finished"),
    ]
    assert bench.recorder.finished == 1


def test_the_same_event_twice(bench: Bench) -> None:
    """Storing a trial again, as after a broken line, changes nothing."""
    bench.recorder.hear(bench.ended(bench.right()))
    bench.recorder.hear(bench.ended(bench.right()))
    assert len(bench.trials()) == len(bench.evaluations()) == 1


def test_a_trial_that_changed(bench: Bench) -> None:
    """A finished trial cannot be stored again with other content."""
    bench.recorder.hear(bench.ended(None))
    with pytest.raises(RecordRefused):
        bench.recorder.hear(bench.ended(bench.right()))


@pytest.mark.parametrize("latency_ns", [1 << 63, (1 << 64) - 1])
def test_a_latency_that_no_clock_shows(bench: Bench, latency_ns: int) -> None:
    """A board that reports an impossible time is refused, and nothing of the trial is stored."""
    samples = wire.Samples((0, 0, 1), array("Q", [latency_ns]), array("Q", [0]))
    with pytest.raises(RecordRefused):
        bench.recorder.hear(bench.ended(None, samples=samples))
    assert bench.trials() == []


def test_a_board_that_comes_back(bench: Bench) -> None:
    """A renewed contact stores the board once, with the clock's offset of the first."""
    bench.recorder.hear(
        dataclasses.replace(bench.connected, host_utc=datetime(2026, 1, 2, tzinfo=UTC))
    )
    (row,) = bench.store.rows("SELECT name, clock_offset_ns, hello_monotonic_ns FROM boards")
    expected = round(MOMENT.timestamp() * 1e9) - bench.connected.hello.monotonic_ns
    assert (row["name"], row["clock_offset_ns"]) == ("pi", expected)


def test_artifacts(bench: Bench) -> None:
    """Each artifact is stored with what it was made from."""
    (row,) = bench.store.rows("SELECT model, recipe, isa, size_bytes FROM artifacts")
    assert (row["model"], row["recipe"], row["isa"]) == ("tinydet", "fp32", "aarch64-dotprod")
    assert row["size_bytes"] > 0


def test_run_ids() -> None:
    """A run's id begins with its time, so that ids sort, and two hosts never share one."""
    first = new_run_id(MOMENT, salt=1)
    assert first == "20260101-000000-000001"
    assert new_run_id(MOMENT, salt=2) != first
    assert new_run_id(MOMENT) != new_run_id(datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC))


def test_host_facts() -> None:
    """The host is described by plain facts that JSON can hold, with the packages that matter."""
    facts = host_facts({"onnx": "1.0"})
    assert facts["onnx"] == "1.0"
    assert facts["cpu_count"]
    assert msgspec.json.decode(msgspec.json.encode(facts)) == facts
