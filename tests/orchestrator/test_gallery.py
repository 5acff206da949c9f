"""Pictures of what variants found, beside the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.jobs import BOX, SIDE, adhoc, job, picture, run, voc, workspace
from support.onnxmodels import segmenter
from support.runs import fake_board

from models.errors import ArtifactLost, DataError
from orchestrator.cli import main
from orchestrator.errors import ExperimentError
from orchestrator.experiment import Experiment
from orchestrator.studies.drawing import SIDE_PX, Row, Shape, sheet, with_boxes, with_mask
from orchestrator.studies.gallery import Gallery, gallery
from results.store import Store

SCORES = (0.9, 0.1)
"""Of the box that is there, and of one that nobody should see."""
HALF = SIDE_PX // 2


def masked(folder: Path) -> Experiment:
    """A set whose images are white where their mask is, and a network that finds that."""
    for kind in ("images", "masks"):
        (folder / "cells" / kind / "val").mkdir(parents=True)
        for rows in (4, 8, 12):
            values = np.zeros((16, 16), dtype=np.uint8)
            values[:rows] = 255
            pixels = np.stack([values] * 3, axis=2) if kind == "images" else values
            Image.fromarray(pixels).save(folder / "cells" / kind / "val" / f"{rows}.png")
    segmenter(folder / "seg.onnx")
    return adhoc(folder, "seg.onnx", data=str(folder / "cells"))


def boxed(folder: Path) -> Experiment:
    """A set of one object an image, and a network that always says where it is."""
    x1, y1, x2, y2 = BOX
    there = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    columns = [(*there, SCORES[0]), (26, 26, 8, 8, SCORES[1])]
    constant = numpy_helper.from_array(np.array([columns], np.float32).transpose(0, 2, 1), "c")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["output0"], name="/decode/all")],
        "knows",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, 2])],
        [constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    told = {"task": "detect", "names": json.dumps(["dog"]), "imgsz": f"[{SIDE}, {SIDE}]"}
    helper.set_model_props(model, told)
    onnx.save(model, folder / "det.onnx")
    data = voc(folder / "voc", ("cat", "dog"), {"val": 2})
    return adhoc(folder, "det.onnx", data=str(data))


def measured(folder: Path, experiment: Experiment) -> Path:
    """The database of a run of the experiment, in a workspace."""
    (folder / "inventory.yaml").write_text("boards:\n  a: {address: 10.0.0.1}\n")
    with Store.open(folder / "results.sqlite", create=True) as store:
        run(store, job(folder, experiment, [fake_board("a")]))
    return folder / "results.sqlite"


def drawn(folder: Path, count: int = 2) -> Gallery:
    with Store.open(folder / "results.sqlite", create=False, read_only=True) as store:
        return gallery(store, "r1", workspace(folder), count)


def rows(found: Gallery) -> list[NDArray[np.uint8]]:
    """The picture's lines without the names on their left."""
    whole = np.asarray(found.picture)
    return [part[:, 120:] for part in np.split(whole, len(found.variants) + 2)]


def test_masks_stand_beside_the_truth(tmp_path: Path) -> None:
    """A network that finds every pixel has the truth's picture, which is not the image's."""
    measured(tmp_path, masked(tmp_path))
    found = drawn(tmp_path)
    assert (found.images, found.variants, found.boxes) == (2, ("seg/fp32",), False)
    image, truth, seen = rows(found)
    assert np.array_equal(truth, seen)
    assert not np.array_equal(image, truth)


def test_boxes_stand_beside_the_truth_in_its_classes(tmp_path: Path) -> None:
    """A sure box is drawn in the colour of the set's class of that name, an unsure one is not."""
    measured(tmp_path, boxed(tmp_path))
    image, truth, seen = rows(drawn(tmp_path))
    scale = SIDE_PX / SIDE
    edge = int(BOX[1] * scale), round((BOX[0] + BOX[2]) / 2 * scale)  # of its upper side
    assert seen[edge].tolist() == [0, 130, 200]  # 'dog' is the set's second class
    second = edge[0], edge[1] + SIDE_PX + 4
    assert truth[second].tolist() == [0, 130, 200]
    low = round(23 * scale)
    assert np.array_equal(seen[low:, low:SIDE_PX], image[low:, low:SIDE_PX])


def test_the_page_has_the_picture_and_words_for_it(tmp_path: Path) -> None:
    """`report --images` writes the picture beside the page and says what stands where."""
    database = measured(tmp_path, masked(tmp_path))
    words = ["--db", str(database), "--inventory", str(tmp_path / "inventory.yaml")]
    assert main(["report", *words, "--out", str(tmp_path / "a b.md"), "--images", "3"]) == 0
    page = (tmp_path / "a b.md").read_text()
    assert "![Images, truth and what was found](a%20b-found.jpg)" in page
    assert "3 of the scored images of cells/val. From top to bottom:" in page
    with Image.open(tmp_path / "a b-found.jpg") as written:
        assert written.width == 120 + 3 * (SIDE_PX + 4)
    assert main(["report", *words, "--images", "3"]) == 2


def test_other_images_than_the_runs_are_refused(tmp_path: Path) -> None:
    """An image that was changed since does not stand as what the run scored."""
    measured(tmp_path, masked(tmp_path))
    for path in (tmp_path / "cells/images/val").iterdir():
        picture(path, 1)
    with pytest.raises(DataError, match="not the image that the run scored"):
        drawn(tmp_path)


def test_an_artifact_that_is_gone_is_named(tmp_path: Path) -> None:
    """Without the measured file nothing else is drawn in its place."""
    measured(tmp_path, masked(tmp_path))
    for path in workspace(tmp_path).models.rglob("*.onnx"):
        path.unlink()
    with pytest.raises(ArtifactLost, match="orchestrator build"):
        drawn(tmp_path)


def test_a_run_without_accuracy_has_no_pictures(tmp_path: Path) -> None:
    """Where nothing was scored there is nothing to draw, and that is said."""
    segmenter(tmp_path / "seg.onnx")
    measured(tmp_path, adhoc(tmp_path, "seg.onnx"))
    with pytest.raises(ExperimentError, match="scored no image"):
        drawn(tmp_path)


def test_names_without_letters_in_the_font_are_numbers() -> None:
    """A Korean name is drawn as its number, not as empty boxes."""
    black = np.zeros((50, 100, 3), dtype=np.uint8)
    box = (0, 0, 100, 50)
    drawn = [with_boxes(black, [Shape(box, 3, name)]) for name in ("개", "3", "새")]
    sheets = [sheet([Row("", (image,)), Row(name, (image,))]) for image, name in
              zip(drawn, ("유넷/fp32", "row 2", "그물"), strict=True)]  # fmt: skip
    assert len({image.tobytes() for image in drawn}) == 1
    assert len({image.tobytes() for image in sheets}) == 1


def test_what_does_not_count_is_grey() -> None:
    """Ignored boxes and pixels are drawn, but in no class's colour."""
    black = np.zeros((50, 100, 3), dtype=np.uint8)
    boxes = np.asarray(with_boxes(black, [Shape((0, 0, 100, 50), 0, ignored=True)]))
    assert boxes[0, HALF].tolist() == [128, 128, 128]
    labels = np.zeros((5, 10), dtype=np.uint8)
    labels[:, 5:] = 255
    pixels = np.asarray(with_mask(black, labels))
    assert pixels.shape == (HALF, SIDE_PX, 3)
    assert pixels[5, 5].tolist() == [0, 0, 0]
    assert len(set(pixels[5, -5].tolist())) == 1 < pixels[5, -5, 0]
