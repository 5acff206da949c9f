from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire import RuntimeOptions
from orchestrator import experiment, experimentfile, plan, profiles
from orchestrator.experiment import Experiment
from orchestrator.plan import BoardFacts, PlannedTrial, RunRequest, make_plan

DEMO = experimentfile.load("demo", Path("/"))
PI5 = BoardFacts("aarch64-dotprod", 4)
PI3B = BoardFacts("aarch64", 4, 906_000_000, threads=3)


def request(seed: int = 1, run_id: str = "run-1", threads: int | None = None) -> RunRequest:
    return RunRequest(run_id, seed, "all", threads=threads)


def recipes(trials: tuple[PlannedTrial, ...]) -> list[str]:
    return [trial.recipe for trial in trials]


def many(count: int) -> Experiment:
    return experiment.adhoc("m", [f"r{index}" for index in range(count)], base_dir=Path("/"))


@given(seed=st.integers(0, 2**63), blocks=st.integers(1, 5), count=st.integers(1, 6))
def test_every_block_holds_every_variant_once(seed: int, blocks: int, count: int) -> None:
    """Whatever the seed, each block of each board is a permutation of all variants."""
    base = many(count)
    wanted = dataclasses.replace(base, profile=dataclasses.replace(base.profile, blocks=blocks))
    made = make_plan(request(seed), wanted, {"pi5": PI5, "pi3b": PI3B})
    for trials in made.boards.values():
        assert [trial.order for trial in trials] == list(range(blocks * count))
        for block in range(blocks):
            part = trials[block * count : (block + 1) * count]
            assert {trial.block for trial in part} == {block}
            assert sorted(recipes(part)) == sorted(wanted.recipes)


def test_the_plan_is_the_same_for_the_same_arguments() -> None:
    """The same request, experiment and boards give the same plan, with the same ids."""
    assert make_plan(request(), DEMO, {"pi5": PI5}) == make_plan(request(), DEMO, {"pi5": PI5})


def test_the_order_of_a_seed_never_changes() -> None:
    """The order of seed 1 is written down here: no Python or library version changes it."""
    trials = make_plan(request(1), many(4), {"pi5": PI5}).boards["pi5"]
    assert recipes(trials[:8]) == ["r3", "r0", "r1", "r2", "r2", "r3", "r0", "r1"]


def test_another_board_changes_nothing_for_the_first() -> None:
    """Adding a board leaves the trials and the order of the others as they were."""
    alone = make_plan(request(), DEMO, {"pi5": PI5})
    both = make_plan(request(), DEMO, {"pi3b": PI3B, "pi5": PI5})
    assert both.boards["pi5"] == alone.boards["pi5"]
    assert len(both.trials) == 2 * len(alone.trials)


def test_orders_differ_between_seeds_boards_and_blocks() -> None:
    """Orders are drawn anew for each seed, board and block (12! orders: no coincidence)."""
    base = many(12)
    first = make_plan(request(1), base, {"pi5": PI5, "pi3b": PI3B}).boards
    other = make_plan(request(2), base, {"pi5": PI5}).boards["pi5"]
    blocks = [
        tuple(recipes(trials[block * 12 : block * 12 + 12]))
        for trials in (first["pi5"], first["pi3b"], other)
        for block in range(3)
    ]
    assert len(set(blocks)) == 9


def test_every_variant_stands_in_every_place_equally_often() -> None:
    """Over 600 seeds, no place of a block prefers a variant."""
    base = many(3)
    first = [
        make_plan(request(seed), base, {"pi5": PI5}).boards["pi5"][0].recipe for seed in range(600)
    ]
    for recipe in base.recipes:
        assert 150 < first.count(recipe) < 250  # 4.3 standard deviations either side of 200


def test_trial_ids_are_unique_and_repeatable() -> None:
    """An id is 32 hex digits, differs with each part of a trial and with the run."""
    facts = {"pi5": PI5, "pi3b": PI3B}
    ids = [trial.trial_id for trial in make_plan(request(), DEMO, facts).trials]
    again = [trial.trial_id for trial in make_plan(request(seed=9), DEMO, facts).trials]
    other = [trial.trial_id for trial in make_plan(request(run_id="r2"), DEMO, facts).trials]
    assert len(set(ids)) == 24
    assert set(again) == set(ids)
    assert not set(other) & set(ids)
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


def test_an_id_cannot_be_forged_by_names_that_run_together() -> None:
    """Names that read the same when joined still give different ids."""
    common = {"block": 0, "scenario": "s"}
    first = plan.trial_id("r", board="a", model="b c", recipe="d", **common)  # type: ignore[arg-type]
    second = plan.trial_id("r", board="a", model="b", recipe="c d", **common)  # type: ignore[arg-type]
    assert first != second


def test_accuracy_is_evaluated_once_a_variant_and_board() -> None:
    """Only the first block evaluates, with the experiment's images and cap."""
    for trials in make_plan(request(), DEMO, {"pi5": PI5, "pi3b": PI3B}).boards.values():
        evaluated = [trial for trial in trials if trial.evaluate]
        assert sorted(recipes(tuple(evaluated))) == sorted(DEMO.recipes)
        assert {trial.block for trial in evaluated} == {0}
        assert {trial.evaluation_images for trial in evaluated} == {64}
        assert {trial.evaluation_images for trial in trials if not trial.evaluate} == {0}


@pytest.mark.parametrize("images", [0, 4])
def test_nothing_is_evaluated_without_data_or_images(images: int) -> None:
    """Without a data set, or with no images asked for, no trial evaluates."""
    profile = dataclasses.replace(DEMO.profile, accuracy_images=images)
    data = None if images else DEMO.data
    wanted = dataclasses.replace(DEMO, profile=profile, data=data)
    assert not any(trial.evaluate for trial in make_plan(request(), wanted, {"pi5": PI5}).trials)


@pytest.mark.parametrize(
    ("asked", "wanted", "facts", "expected"),
    [(None, None, PI5, 4), (None, None, PI3B, 3), (None, 2, PI3B, 2), (1, 2, PI3B, 1)],
)
def test_threads_come_from_the_nearest_wish(
    asked: int | None, wanted: int | None, facts: BoardFacts, expected: int
) -> None:
    """Threads: the command line's, else the experiment's, else the inventory's, else all cores."""
    options = experiment.Options(threads=wanted, allow_spinning=False)
    mine = dataclasses.replace(DEMO, options=options)
    made = make_plan(request(threads=asked), mine, {"b": facts})
    assert {trial.options for trial in made.trials} == {
        RuntimeOptions(intra_op_num_threads=expected, allow_spinning=False)
    }


def test_a_recipe_of_ones_own_file_has_the_files_name() -> None:
    """A trial shows a recipe by its name, also where it was given as a path."""
    mine = experiment.adhoc("m", ["fp32", "own/mix.yaml"], base_dir=Path("/lab"))
    made = make_plan(request(), mine, {"pi5": PI5})
    assert {trial.recipe for trial in made.trials} == {"fp32", "mix"}


def test_a_deadline_outlasts_the_slowest_model_meant_for_a_board() -> None:
    """At 12.5 s an inference, a whole trial of every profile ends before its deadline."""
    slow_ns = 12_500_000_000
    for profile in profiles.PROFILES.values():
        scenario = profiles.scenario(profile)
        cap_ns = 600_000_000_000
        warmup_ns = max(scenario.warmup_min_samples * slow_ns, scenario.warmup_min_duration_ns)
        longest_ns = slow_ns + warmup_ns + (scenario.max_duration_ns + slow_ns) + (cap_ns + slow_ns)
        assert plan.deadline_ns(scenario, cap_ns) > longest_ns + 60_000_000_000


def test_a_sustained_trial_lasts_a_fixed_time() -> None:
    """Sampling has one duration, no count to reach, the profile's warm-up and a later deadline."""
    choice = experiment.ScenarioChoice("sustained", 600.0)
    mine = dataclasses.replace(DEMO, scenario=choice)
    trial, usual = (make_plan(request(), e, {"b": PI5}).trials[0] for e in (mine, DEMO))
    scenario = trial.scenario
    assert scenario.name == "sustained"
    assert scenario.min_duration_ns == scenario.max_duration_ns == 600_000_000_000
    assert scenario.min_samples == 1
    assert scenario.warmup_min_samples == usual.scenario.warmup_min_samples
    longer_ns = scenario.max_duration_ns - usual.scenario.max_duration_ns
    assert trial.deadline_ns - usual.deadline_ns == longer_ns
    assert trial.trial_id != usual.trial_id
    for latency_ns in (1_000, 10_000_000, 700_000_000_000):
        known = {("tinydet", recipe): latency_ns for recipe in DEMO.recipes}
        seconds = plan.estimate_seconds([dataclasses.replace(trial, evaluation_images=0)], known)
        warm_s = max(0.5, 16 * latency_ns / 1e9)
        assert seconds == pytest.approx(3.0 + latency_ns / 1e9 + warm_s + 600.0)


def test_an_estimate_adds_up() -> None:
    """The estimate is start, cold, warm-up, sampling and scoring, each with its cap."""
    trials = make_plan(request(), DEMO, {"pi5": PI5}).trials
    known = {("tinydet", recipe): 10_000_000 for recipe in DEMO.recipes}
    each = 3.0 + 0.01 + 0.5 + 6.62  # 662 samples of 10 ms outlast the 5 s
    assert plan.estimate_seconds(trials, known) == pytest.approx(12 * each + 4 * 64 * 0.03)
    capped = 3.0 + 0.1 + 1.6 + 20.0  # 662 samples of 100 ms meet the cap of 20 s
    assert plan.estimate_seconds(trials) == pytest.approx(12 * capped + 4 * 64 * 0.12)
    assert plan.estimate_seconds([]) == 0.0


def test_the_demo_measures_for_less_than_110_seconds() -> None:
    """With 5 ms an inference, twice what the shipped detector takes, the demo ends in time."""
    trials = make_plan(request(), DEMO, {"local": BoardFacts("x86_64", 2)}).trials
    known = {("tinydet", recipe): 5_000_000 for recipe in DEMO.recipes}
    assert plan.estimate_seconds(trials, known) < 110
