"""Reports: published figures beside measured ones, and which findings repeat."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from support import stored
from support.hostile import NASTY, raw_characters

from models.store import CurvePoint
from orchestrator import experimentfile
from orchestrator.cli import main
from orchestrator.studies import measured, writing
from orchestrator.studies.findings import Figure, judge
from orchestrator.studies.measured import Line, latest_run
from orchestrator.studies.published import Finding, PublishedRow, Study, Variant, studies
from results.store import Store

TINY = ("tinydet",)
SIZES_MB = {"fp32": 4.0, "int8_ptq": 1.0}
STUDY = Study(
    title="A study",
    source="somebody",
    setup="Some set-up.",
    accuracy="map50",
    baseline=Variant(TINY, "fp32"),
    rows=(
        PublishedRow("base", TINY, "fp32", size_mb=4.0, accuracy=0.7, latency_ms=10.0),
        PublishedRow("PTQ", TINY, "int8_ptq", size_mb=1.0, accuracy=0.6, latency_ms=5.0),
        PublishedRow("QAT", TINY, "qat", accuracy=0.69),
    ),
    findings=(
        Finding("INT8 is faster", "latency", "PTQ", high=1.0),
        Finding("INT8 is slower", "latency", "PTQ", low=1.0),
        Finding("QAT is better", "accuracy", "QAT", "PTQ", low=0.0),
    ),
)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stored runs, the experiment of which counts as a study."""
    monkeypatch.setattr(writing, "_study", lambda _name: STUDY)
    return stored.fill(tmp_path / "results.sqlite", stored.detected)


def report(database: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["report", "--db", str(database), *words]) == 0
    return capsys.readouterr().out


def test_a_report_has_published_and_measured_side_by_side(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each published ratio stands beside the one measured, with its interval."""
    page = report(database, capsys, stored.FIRST)
    ptq = next(line for line in page.splitlines() if line.startswith("| PTQ | 0.250"))
    cells = [cell.strip() for cell in ptq.strip("|").split("|")]
    assert cells[:2] == ["PTQ", "0.250"]
    assert cells[3] == "0.500"
    assert cells[4].startswith("0.500")
    assert cells[5] == "-0.1000"
    assert re.fullmatch(r"-0\.4000 \(-0\.\d{4} … -0\.\d{4}\)", cells[6])


def test_findings_are_judged(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding repeats, does not, or was not measured: each is said."""
    local, pi5 = report(database, capsys, stored.FIRST).split("## Measured on ")[1:]
    assert re.search(r"INT8 is faster .*\*\*repeats\*\*", local)
    assert re.search(r"INT8 is slower .*\*\*does not repeat\*\*", local)
    assert re.search(r"INT8 is slower .*\*\*repeats\*\*", pi5)
    assert "| QAT is better | accuracy: not measured | **no figure** |" in local


def test_size_is_judged_on_the_whole_network(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of the newest run at full size are shown and judged, not those of the twin."""
    smaller = Finding("INT8 is a half", "size", "PTQ", low=0.45, high=0.55)
    study = msgspec.structs.replace(STUDY, whole="untrained", findings=(smaller,))
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    before = report(database, capsys, stored.FIRST)
    assert "INT8 is a half | size 1.000 | **does not repeat**" in before
    assert "whole network" not in before
    added = stored.add_run(database, "demo", "pi5", scale="untrained")
    page = report(database, capsys, stored.FIRST)
    assert page.count("INT8 is a half | size 1.000 (whole network) |") == 2
    assert f"From run `{added}` at scale `untrained`" in page
    assert "| PTQ | - | 1.00 | 2.00 | 0.250 | 1.000 | +300.0% |" in page
    assert "whole network" not in report(database, capsys, added)


def test_times_are_judged_on_the_whole_network(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times of the networks at full size count before the twins', on the boards that have them."""
    study = msgspec.structs.replace(STUDY, whole="untrained")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    stored.add_run(database, "demo", "pi5", scale="untrained", blocks=3)
    page = report(database, capsys, stored.FIRST)
    local, pi5 = page.split("## Measured on ")[1:]
    assert re.search(r"INT8 is slower \| latency 0\.500 \| \*\*does not", local)
    assert re.search(r"INT8 is slower \| latency 1\.200 \(.*\) \(whole network\) \| \*\*rep", pi5)
    assert re.search(r"\| PTQ \|.*\| 0\.500 \| 1\.200 \(.*\) \| 120\.\d \|", page)


def test_a_whole_network_of_one_block_says_nothing_of_times(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the run at full size gives no interval, the finding is judged by the other run."""
    study = msgspec.structs.replace(STUDY, whole="untrained")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    stored.add_run(database, "demo", "pi5", scale="untrained")
    pi5 = report(database, capsys, stored.FIRST).split("## Measured on pi5")[1]
    assert re.search(r"INT8 is slower \| latency 1\.200 \(.*\) \| \*\*repeats", pi5)
    assert "(whole network)" not in pi5


def test_what_a_saved_megabyte_costs(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy lost for each MB saved is compared, with all that both intervals allow."""
    costs = Finding("QAT costs less a MB", "price", "QAT", "PTQ", high=0.0)
    rows = (*STUDY.rows[:2], PublishedRow("QAT", TINY, "int8_ptq"))
    study = msgspec.structs.replace(STUDY, rows=rows, findings=(costs,))
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    monkeypatch.setattr(Line, "size_mb", property(lambda line: SIZES_MB[line.row.recipe]))
    page = report(database, capsys, stored.FIRST)
    told = re.search(r"accuracy lost for each MB saved \+0\.0000 \((\S+) … (\S+)\)", page)
    assert told is not None
    low, high = map(float, told.groups())
    assert low == -high < -0.01  # 0.4 lost, give or take, by 3 MB
    assert "**undecided**" in page


def test_the_processor_is_named(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that is no known board is told by its processor."""
    assert "\ncpu, x86_64-vnni, 2 threads." in report(database, capsys, stored.FIRST)


def test_a_page_of_whole_networks_leads_to_the_one_that_takes_it_in(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report` alone writes the newest run, which may be the untrained one: its page says so."""
    study = msgspec.structs.replace(STUDY, whole="untrained")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    stored.add_run(database, "demo", "pi5", scale="untrained")
    assert "**Untrained.**" in report(database, capsys)
    assert "**Untrained.**" not in report(database, capsys, stored.FIRST)


def test_one_block_is_told_as_one(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page counts the blocks of a run in words that fit the number."""
    added = stored.add_run(database, "other", "pi5")
    assert ": 1 block, 2026-" in report(database, capsys, added)
    assert f": {stored.BLOCKS} blocks, 2026-" in report(database, capsys, stored.FIRST)


def test_a_run_that_was_cut_short_is_not_shown_as_whole(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of a run that is not finished says so, and how to finish it."""
    assert "Incomplete" not in report(database, capsys, stored.FIRST)
    told = f"**Incomplete:** the run is partial; `orchestrator resume {stored.LATEST}` measures"
    assert told in report(database, capsys, stored.LATEST)


def test_a_report_is_a_file_too(database: Path, tmp_path: Path) -> None:
    """--out writes the same page into a file."""
    out = tmp_path / "page.md"
    assert main(["report", "--db", str(database), "--out", str(out)]) == 0
    assert out.read_text().startswith("# A study\n")


def test_models_whose_names_look_alike_have_pictures_of_their_own(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No picture overwrites another, and the page's links lead to them whatever their names."""
    learned = dict.fromkeys(("유넷", "a b", "a-b"), (CurvePoint(1, "train", "loss", 1.0),))
    monkeypatch.setattr(writing, "curves", lambda _lines: learned)
    monkeypatch.setattr(writing, "draw_curves", lambda path, _points, title: path.write_text(title))
    out = tmp_path / "내 연구 (1).md"
    assert main(["report", "--db", str(database), "--out", str(out)]) == 0
    links = re.findall(r"^!\[Learning curves\]\(([^ ()]+)\)$", out.read_text(), re.MULTILINE)
    assert [(tmp_path / unquote(link)).read_text() for link in links] == ["유넷", "a b", "a-b"]


def test_more_learning_has_a_picture_of_its_own() -> None:
    """A variant that learned on is shown beside its model; the same training is not shown twice."""

    def line(recipe: str, steps: int, *points: tuple[int, str]) -> Any:
        curves = tuple(CurvePoint(epoch, "train", metric, 1.0) for epoch, metric in points)
        row = SimpleNamespace(model="net", variant=recipe)
        manifest = SimpleNamespace(curves=curves, steps=range(steps))
        return SimpleNamespace(row=row, manifest=manifest, label=f"net/{recipe}")

    scored = ((1, "loss"), (1, "map50"))
    lines = [
        line("qat", 4, *scored, (2, "loss")),
        line("older", 2, (1, "loss")),
        line("fp32", 2, *scored),
        line("ort_format", 3, *scored),
    ]
    shown = measured.curves(lines)
    assert list(shown) == ["net", "net/qat"]
    assert [point.metric for point in shown["net"]] == ["loss", "map50"]


def test_a_report_that_cannot_be_written_is_refused_in_words(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is not there is a wrong --out, not an unexpected error."""
    out = tmp_path / "nowhere" / "page.md"
    assert main(["report", "--db", str(database), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "--out" in said
    assert "No such file or directory" in said
    assert "unexpected" not in said


def test_a_run_of_no_study_has_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of any experiment can be reported, without published figures."""
    database = stored.fill(tmp_path / "results.sqlite", stored.segmented)
    page = report(database, capsys)
    assert "Published" not in page
    assert "Dice" in page
    assert "mAP50" not in page


def test_the_page_says_what_its_figures_rest_on(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images, set, meaning of the ratio and lost accuracy stand under the figures."""
    page = report(database, capsys, stored.FIRST)
    figures = page.split("## Measured on ")[1].split("### Against")[0]
    assert re.search(r"^- mAP: \d+ images of \S+, detected on the board", figures, re.MULTILINE)
    assert "- LOST ACCURACY: local: tinydet/int8_ptq keeps" in figures
    assert "- ratio: p50 as a share of fp32's on the same board" in figures


def test_what_cannot_be_compared_is_not_called_unmeasured(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a board was held back, the page says so in the place of a figure."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        held = "UPDATE summaries SET throttled_bits = 4 WHERE trial_no IN (SELECT trial_no FROM "
        held += "trials WHERE board = 'local' AND recipe = 'int8_ptq')"
        assert connection.execute(held).rowcount > 0
    local = report(database, capsys, stored.FIRST).split("## Measured on ")[1]
    told = "A is tinydet/int8_ptq, B tinydet/fp32: A ran while its board was held back (throttled)"
    assert f"| INT8 is faster | latency: not comparable ({told}) | **no figure** |" in local


def test_a_study_shows_latency_against_temperature(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page of a study has what its own run without pauses measured, by temperature."""
    study = msgspec.structs.replace(STUDY, sustained="pauseless")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    before = report(database, capsys, stored.FIRST)
    assert "`orchestrator run pauseless` does" in before
    added = stored.add_run(database, "pauseless", "pi5", "local", scenario="sustained")
    page = report(database, capsys, stored.FIRST).split("## Latency against temperature")[1]
    assert f"From run `{added}` of `pauseless`" in page
    assert re.search(r"pi5 \| tinydet/fp32 \| 50 … 52 \| 700 \| 100\.00\d", page)
    assert "local" not in page  # it has no sensor
    assert report(database, capsys, added).count("50 … 52") == 2


def test_temperatures_are_those_of_the_same_scale(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small twin's run without pauses does not stand on the page of the full networks."""
    study = msgspec.structs.replace(STUDY, sustained="pauseless")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    stored.add_run(database, "pauseless", "pi5", scenario="sustained", scale="smoke")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        told = """UPDATE runs SET experiment_json = '{"experiment": {"scale": "full"}}'
                  WHERE run_id = ?"""
        connection.execute(told, [stored.FIRST])
    page = report(database, capsys, stored.FIRST)
    assert "Not measured yet: `orchestrator run pauseless --scale full` does" in page


def test_a_page_takes_in_whole_runs_before_newer_ones_that_were_cut(database: Path) -> None:
    """What stands beside a run on its page is the newest finished run, if there is one."""
    with Store.open(database, create=False, read_only=True) as store:
        assert latest_run(store, "demo") == stored.FIRST  # LATEST is newer, and partial
        assert latest_run(store, "other") is None


def test_without_a_sensor_a_study_shows_the_course_over_time(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No temperature is made up: latency is told by fifths of the time, and said to be that."""
    study = msgspec.structs.replace(STUDY, sustained="pauseless")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    stored.add_run(database, "pauseless", "local", scenario="sustained")
    page = report(database, capsys, stored.FIRST).split("## Latency against temperature")[1]
    assert "No board of that run has a temperature sensor" in page
    counts = re.findall(r"local \| tinydet/fp32 \| (\d) \| (\d+) \| 10\.00\d", page)
    assert [part for part, _ in counts] == ["1", "2", "3", "4", "5"]
    assert sum(int(count) for _, count in counts) == stored.SAMPLES


MARKUP = f"{NASTY}|<img src=x> [a](b) ![c](d) `e` **f** \\"
SAID = dict.fromkeys(
    ("board_model", "hostname", "serial", "cpu_model", "os_name", "python"), MARKUP
)
"""What a board may say of itself, all of it markup."""


def cells(line: str) -> int:
    """Columns of a row of a table, as Markdown counts them."""
    return len(re.sub(r"\\.", "", line).strip("|").split("|"))


def test_what_a_board_says_is_text_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word of a board becomes a tag, a link, a control character or a column of a table."""
    study = msgspec.structs.replace(STUDY, sustained="pauseless")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    database = stored.fill(tmp_path / "results.sqlite", stored.detected, **SAID)
    stored.add_run(database, "pauseless", "pi5", scenario="sustained", **SAID)
    page = report(database, capsys, stored.FIRST)
    assert "gnp.exe" in page  # it is there, harmless
    assert "\\[a\\](b)" in page
    assert raw_characters(page) == set()
    assert "<" not in page
    assert not re.search(r"(?<!\\)\[a", page)
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) > 6
    for table in tables:
        assert len({cells(line) for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("runs", "show", stored.FIRST),
        ("runs", "show", stored.LATEST),
        ("compare",),
        ("compare", "--run", stored.FIRST),
        ("compare", "--run", stored.FIRST, "--json"),
        (
            "compare",
            "--run",
            stored.FIRST,
            "board=pi5,variant=int8_ptq",
            "board=local,variant=fp32",
        ),
    ],
)
def test_what_a_board_says_is_text_on_the_screen(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    """The screens of past runs hold no control character of a board."""
    database = stored.fill(tmp_path / "results.sqlite", stored.detected, **SAID)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        ran = "UPDATE trials SET runtime_version = ? WHERE board = 'pi5' AND state = 'finished'"
        assert connection.execute(ran, [MARKUP]).rowcount > 0
    assert main([words[0], "--db", str(database), *words[1:]]) == 0
    said = capsys.readouterr()
    assert "pi5" in said.out
    names_it = {"--json", "board=local,variant=fp32"} & set(words)
    assert ("gnp.exe" in said.out) == bool(names_it)
    assert raw_characters(said.out + said.err) == set()


def test_an_emulated_board_is_marked_and_has_no_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says that a board is emulated, and no time of it stands anywhere on it."""
    study = msgspec.structs.replace(STUDY, sustained="pauseless")
    monkeypatch.setattr(writing, "_study", lambda _name: study)
    facts = {"emulated": True, "emulated_by": "qemu"}
    database = stored.fill(tmp_path / "results.sqlite", stored.detected, **facts)
    stored.add_run(database, "pauseless", "pi5", "local", scenario="sustained", **facts)
    page = report(database, capsys, stored.FIRST)
    local, pi5 = page.split("## Measured on ")[1:]
    assert "Emulated" not in local
    assert "**Emulated:** its times mean nothing" in pi5
    emulated, course = pi5.split("## Latency against temperature")
    rows = [
        line.split(" | ") for line in emulated.splitlines() if line.startswith(("| fp32", "| int8"))
    ]
    assert [row[4:7] for row in rows] == [["-"] * 3] * 2
    assert "| -0.4000 (" in emulated  # what was detected counts
    assert re.search(r"\| PTQ \| 0\.250 \| 1\.000 \| 0\.500 \| - \|", emulated)
    assert emulated.count("board pi5 is emulated: speed means nothing) | **no figure** |") == 2
    assert "| base | 1.000 | 1.000 | 1.000 | - |" in emulated
    assert "| local |" in course
    assert "pi5" not in course


def test_a_sustained_run_on_emulated_boards_alone_shows_no_course(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no real board was measured, that is said in the place of a table."""
    facts = {"emulated": True, "emulated_by": "qemu"}
    database = stored.fill(tmp_path / "results.sqlite", stored.detected, **facts)
    stored.add_run(database, "pauseless", "pi5", scenario="sustained", **facts)
    course = report(database, capsys, stored.THIRD).split("## Latency against temperature")[1]
    assert course.strip() == "No real board was measured in that run."


@pytest.mark.parametrize(
    ("low", "high", "figure", "answer"),
    [
        (None, 1.0, Figure(0.5, 0.4, 0.6), "repeats"),
        (None, 1.0, Figure(1.1, 0.9, 1.3), "undecided"),
        (None, 1.0, Figure(1.3, 1.2, 1.4), "does not repeat"),
        (0.2, 0.3, Figure(0.25, 0.25, 0.25), "repeats"),
        (0.2, 0.3, Figure(0.35, 0.35, 0.35), "does not repeat"),
        (0.0, None, None, "no figure"),
        (None, 0.0, Figure(0.0, 0.0, 0.0), "does not repeat"),
        (0.0, None, Figure(0.0, 0.0, 0.0), "does not repeat"),
        (None, 0.0, Figure(-0.1, -0.2, 0.0), "undecided"),
    ],
)
def test_the_whole_interval_decides(
    low: float | None, high: float | None, figure: Figure | None, answer: str
) -> None:
    """Only an interval that lies on one side says anything; no difference is on neither side."""
    assert judge(Finding("x", "latency", "a", low=low, high=high), figure) == answer


@pytest.mark.parametrize("name", sorted(studies()))
def test_every_published_row_is_a_variant_of_its_experiment(name: str) -> None:
    """At scales smoke and full each row of a study is measured, and each finding names rows.

    Untrained, every finding on sizes and times is, except that nothing is trained for QAT.
    """
    study = studies()[name]
    whole = experimentfile.load(name, Path("/"), study.whole).variants()
    for finding in study.findings:
        if finding.what in ("size", "latency"):
            row = study.row(finding.a)
            assert any((model, row.recipe) in whole for model in row.models), finding
    for scale in ("smoke", "full"):
        variants = experimentfile.load(name, Path("/"), scale).variants()
        for row in study.rows:
            assert any((model, row.recipe) in variants for model in row.models), (scale, row)
    for finding in study.findings:
        assert study.row(finding.a)
        assert finding.b is None or study.row(finding.b)
        assert (finding.low, finding.high) != (None, None)


VOC = {  # size MB, mAP %, latency s
    "baseline (32, 32, 32)": (241.09, 69.33, 12.49),
    "PTQ (8, 8, 8)": (60.84, 67.54, 6.51),
    "QAT (8, 8, 8)": (60.84, 69.29, 6.51),
    "partial (8, 32, 32)": (121.95, 68.73, 9.96),
    "partial (32, 8, 32)": (197.65, 69.11, 12.31),
    "partial (32, 32, 8)": (222.15, 68.53, 12.06),
}
YOLOV9 = {  # mAP50, mean inference ms
    "PyTorch eager": (0.699, 3334.0),
    "ONNX": (0.696, 1762.5),
    "ORT format": (0.696, 1689.3),
    "20 % pruned, PyTorch eager": (0.654, 2953.6),
    "redesigned": (0.578, 1435.2),
}
UNET = {  # parameters, size MB, inference s, Dice
    "base U-Net": (1_925_601, 7.35, 0.3888, 0.5128),
    "group + dilated (lite)": (1_075_265, 4.10, 0.0781, 0.4274),
    "ShuffleNet units": (338_705, 1.29, 0.0923, 0.2466),
    "PTQ": (None, 1.87, 0.2126, 0.5008),
    "group convolutions": (845_637, 3.32, 0.6417, 0.2862),
    "dilated convolutions": (1_925_601, 7.35, 0.0462, 0.4833),
}
Printed = dict[str, tuple[int | None, float | None, float | None, float | None]]
"""Parameters, MB, accuracy in 0..1, ms."""


@pytest.mark.parametrize(
    ("name", "accuracy", "printed"),
    [
        (
            "yolov3-voc-quantization",
            "map50",
            {k: (None, mb, percent / 100, s * 1000) for k, (mb, percent, s) in VOC.items()},
        ),
        (
            "yolov9-deployment",
            "map50",
            {k: (None, None, score, ms) for k, (score, ms) in YOLOV9.items()},
        ),
        ("yolov8n-int8", "map50", dict.fromkeys(("FP32", "PTQ", "QAT"), (None,) * 4)),
        (
            "unet-lightweight",
            "dice",
            {k: (count, mb, dice, s * 1000) for k, (count, mb, s, dice) in UNET.items()},
        ),
    ],
)
def test_every_published_figure_is_kept(name: str, accuracy: str, printed: Printed) -> None:
    """Sizes, accuracies, latencies and parameters are those of the printed tables."""
    study = studies()[name]
    assert study.accuracy == accuracy
    assert [row.label for row in study.rows] == list(printed)
    for row in study.rows:
        kept = (row.parameters, row.size_mb, row.accuracy, row.latency_ms)
        for have, wanted in zip(kept, printed[row.label], strict=True):
            assert have == (None if wanted is None else pytest.approx(wanted, rel=1e-9)), row


def test_the_published_figures_are_those_of_the_papers() -> None:
    """Sizes of the VOC study stand in the ratios that reveal how its network was cut."""
    voc = studies()["yolov3-voc-quantization"]
    whole = voc.row("baseline (32, 32, 32)").size_mb
    assert whole == 241.09
    ratios = [round((row.size_mb or 0) / whole, 3) for row in voc.rows]
    assert ratios == [1.0, 0.252, 0.252, 0.506, 0.82, 0.921]
