"""A segmenter as a user measures it: this machine as a board, masks scored, sides compared."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from support.cli import Desk, desk, table
from support.onnxmodels import segmenter

from agent.wire import ImagePrep, SegmentHead
from models.data import DataSpec, load_segmentation
from models.data.blobs import draw_blobs
from models.overlap import MaskScores, score_masks, segment_on_host

pytestmark = pytest.mark.slow

IMAGES = 24
SIZE = 48
EXPERIMENT = f"""
models: [bright.onnx]
recipes: [fp32, ort_format]
baseline: fp32
data: {{source: cells, split: val}}
accuracy: {{images: {IMAGES}, cap_s: 60}}
blocks: 2
profile: smoke
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A folder of images with masks, and a model that takes what is bright for a cell."""
    with desk(tmp_path_factory.mktemp("masks")) as made:
        segmenter(made.root / "bright.onnx", SIZE)
        (made.root / "cells.yaml").write_text(EXPERIMENT)
        for folder in ("images", "masks"):
            (made.root / "cells" / folder / "val").mkdir(parents=True)
        for index in range(IMAGES):
            drawn = draw_blobs("val", index)
            bright = np.minimum(drawn.pixels.astype(np.uint16) * 2, 255).astype(np.uint8)
            name = f"{index:02}.png"
            Image.fromarray(bright).save(made.root / "cells" / "images" / "val" / name)
            mask = Image.fromarray(drawn.labels * np.uint8(255))
            mask.save(made.root / "cells" / "masks" / "val" / name)
        yield made


@pytest.fixture(scope="module")
def run(place: Desk) -> dict[str, object]:
    result = place.run("run", "cells.yaml", "--boards", "here", "--json", timeout_s=200)
    assert result.returncode == 0, result.stderr
    return table(result)


@pytest.fixture(scope="module")
def own(place: Desk) -> MaskScores:
    """What this machine makes of the same images and the same model."""
    found = load_segmentation(DataSpec(str(place.root / "cells")), place.root)
    prep = ImagePrep(SIZE, SIZE)
    masks = segment_on_host(place.root / "bright.onnx", found.images, prep, SegmentHead(1), 1)
    return score_masks(found, masks, prep, {0: 0})


@pytest.mark.timeout(300)
def test_the_boards_dice_is_the_hosts(run: dict[str, object], place: Desk, own: MaskScores) -> None:
    """Masks from a real agent give, image by image, the Dice that this machine finds itself."""
    (row, _) = place.rows("SELECT * FROM evaluations ORDER BY evaluation_no")
    assert 0.1 < row["dice"] < 0.95  # a threshold is no good segmenter, and does find something
    assert (row["dice"], row["iou"]) == pytest.approx((own.dice, own.iou), abs=1e-9)
    assert (row["map50"], row["map50_95"], row["images"]) == (None, None, IMAGES)
    stored = place.rows("SELECT image_id, dice FROM image_scores WHERE evaluation_no = 1")
    assert {one["image_id"]: one["dice"] for one in stored} == pytest.approx(own.per_image)


def test_the_table_has_dice_and_no_map(run: dict[str, object], place: Desk) -> None:
    """The final table, the list of a past run and the JSON show Dice where mAP would stand."""
    rows = run["rows"]
    assert all(row["dice"] is not None and row["map50"] is None for row in rows)  # type: ignore[attr-defined]
    shown = place.run("runs", "show").stdout
    assert "Dice" in shown
    assert "IoU" in shown
    assert "mAP" not in shown
    assert "segmented on the board" in shown


def test_variants_are_compared_with_an_interval(run: dict[str, object], place: Desk) -> None:
    """Two formats of one model find the same: the difference and both its ends are 0."""
    result = place.run("compare", "--json")
    assert result.returncode == 0, result.stderr
    (verdict,) = json.loads(result.stdout)
    assert verdict["accuracy"]["dice"] == pytest.approx(0.0, abs=1e-6)
    assert verdict["accuracy"]["intervals"]["dice"] == pytest.approx(
        {"low": 0.0, "high": 0.0}, abs=1e-6
    )


def test_the_whole_set_on_the_host(place: Desk, own: MaskScores) -> None:
    """`build --score` shows and stores the same Dice."""
    result = place.run("build", "cells.yaml", "--score")
    assert result.returncode == 0, result.stderr
    assert f"{own.dice:.3f}" in result.stdout
    assert "Dice" in result.stdout
    assert "mAP" not in result.stdout
    (row,) = place.rows("SELECT DISTINCT dice FROM evaluations WHERE place = 'host'")
    assert row["dice"] == pytest.approx(own.dice)
