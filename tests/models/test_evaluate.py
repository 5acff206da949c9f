import dataclasses
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from agent.vision import ImageError, OutputError
from agent.wire import DetectHead, Detection, ImagePrep
from models.data import Box, DetectionSet, LabelledImage
from models.errors import DataError, ModelUnreadable
from models.evaluate import Scores, detect_on_host, score

PREP = ImagePrep(height=32, width=32)
HEAD = DetectHead(decoder="yolo_v8", num_classes=1)


def labelled(image_id: str, *boxes: Box) -> LabelledImage:
    return LabelledImage(image_id, Path(f"{image_id}.png"), 100, 100, boxes)


def dataset(*images: LabelledImage) -> DetectionSet:
    return DetectionSet("pets", ("cat", "dog", "cow"), images)


def figures(images: DetectionSet, found: dict[str, list[Detection]]) -> Scores:
    """The scores less the matches they follow from."""
    return dataclasses.replace(score(images, found), matches={})


def test_score_of_a_case_computed_by_hand() -> None:
    """Two cats, one found exactly and one at IoU 0.63 after a false alarm, score as by hand.

    Ranked: hit (0.9), false alarm (0.8), hit at IoU 0.63 (0.7). At thresholds 0.5, 0.55, 0.6:
    precision 1 up to recall 0.5 (51 of 101 points), then 2/3 (50 points). At the seven others
    recall ends at 0.5. The dog is missed everywhere. The set has no cow, so cows do not count.
    """
    images = dataset(
        labelled("a", Box(10, 10, 30, 30, 0), Box(60, 60, 80, 80, 1)),
        labelled("b", Box(0, 0, 100, 100, 0)),
    )
    found = {
        "a": [Detection(10, 10, 30, 30, 0.9, 0), Detection(70, 0, 90, 20, 0.8, 0)],
        "b": [Detection(0, 0, 100, 63, 0.7, 0)],
    }
    loose, strict = (51 + 50 * 2 / 3) / 101, 51 / 101
    cat = (3 * loose + 7 * strict) / 10
    scores = score(images, found)
    assert scores.map50 == pytest.approx(loose / 2)
    assert scores.map50_95 == pytest.approx(cat / 2)
    assert scores.per_class == pytest.approx({"cat": cat, "dog": 0.0})
    assert scores.images == 2


def test_ignored_objects_neither_reward_nor_punish() -> None:
    """Finding or missing an ignored object changes no figure."""
    images = dataset(labelled("a", Box(0, 0, 20, 20, 0), Box(50, 50, 70, 70, 0, ignore=True)))
    hit = Detection(0, 0, 20, 20, 0.5, 0)
    ignored = Detection(50, 50, 70, 70, 0.9, 0)
    perfect = Scores(pytest.approx(1.0), pytest.approx(1.0), 1, {"cat": pytest.approx(1.0)})
    assert figures(images, {"a": [hit]}) == perfect
    assert figures(images, {"a": [hit, ignored]}) == perfect


def test_no_detection_at_all_is_zero() -> None:
    """Where objects are and nothing is found the figures are 0, not None."""
    images = dataset(labelled("a", Box(0, 0, 20, 20, 1)))
    assert figures(images, {}) == figures(images, {"a": []}) == Scores(0.0, 0.0, 1, {"dog": 0.0})


def test_set_without_objects_that_count_has_no_figures() -> None:
    """Without an object, or with ignored ones only, precision is None, never 0."""
    ignored = Box(0, 0, 9, 9, 0, ignore=True)
    images = dataset(labelled("a"), labelled("b", ignored))
    found = {"a": [Detection(0, 0, 20, 20, 0.9, 0)]}
    assert score(images, found) == Scores(None, None, 2, {})


def test_images_without_detections_count_as_missed() -> None:
    """An object in an image that has no entry lowers the score."""
    box = Box(0, 0, 20, 20, 0)
    images = dataset(labelled("a", box), labelled("b", box))
    scores = score(images, {"a": [Detection(0, 0, 20, 20, 0.9, 0)]})
    assert scores.map50 == pytest.approx(51 / 101)


def test_detections_of_other_images_are_left_out() -> None:
    """A subset is scored from the detections of the whole set, and only its images count."""
    box, hit = Box(0, 0, 20, 20, 0), Detection(0, 0, 20, 20, 0.9, 0)
    scores = score(dataset(labelled("a", box)), {"a": [hit], "elsewhere": [hit, hit]})
    assert (scores.map50, scores.images) == (pytest.approx(1.0), 1)


def test_detections_of_another_set_are_refused() -> None:
    """Detections that share no image with the set are an error, not a score of 0."""
    images = dataset(labelled("a", Box(0, 0, 20, 20, 0)))
    with pytest.raises(DataError, match=r"pets: none of the 1 images .* 'x'"):
        score(images, {"x": []})


@pytest.mark.parametrize("class_index", [-1, 3])
def test_detection_of_an_unknown_class_is_refused(class_index: int) -> None:
    """A class that the set lacks means a model of another set."""
    images = dataset(labelled("a", Box(0, 0, 20, 20, 0)))
    with pytest.raises(DataError, match=f"'a': a detection of class {class_index}.* 3 classes"):
        score(images, {"a": [Detection(0, 0, 20, 20, 0.9, class_index)]})


def test_detection_that_is_not_finite_is_refused() -> None:
    """A NaN score cannot be ranked, so it is an error with the image's id."""
    images = dataset(labelled("a", Box(0, 0, 20, 20, 0)))
    with pytest.raises(DataError, match=r"'a': Detection\(.*nan.* is not finite"):
        score(images, {"a": [Detection(0, 0, 20, 20, math.nan, 0)]})


def write_model(path: Path, output: np.ndarray) -> Path:
    """An ONNX file that gives `output` for any image of PREP's size."""
    shape = [1, 3, PREP.height, PREP.width]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("Mul", ["m", "zero"], ["z"]),
            helper.make_node("Add", ["told", "z"], ["y"]),
        ],
        "constant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output.shape)],
        [
            numpy_helper.from_array(output.astype(np.float32), "told"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def photo(tmp_path: Path, name: str = "wide", size: tuple[int, int] = (64, 32)) -> LabelledImage:
    path = tmp_path / f"{name}.png"
    Image.new("RGB", size, (90, 120, 30)).save(path)
    return LabelledImage(name, path, *size, ())


def test_host_detections_are_in_pixels_of_the_original(tmp_path: Path) -> None:
    """A box of the letterboxed tensor comes back in the image's own pixels, by image id."""
    output = np.array([16, 16, 8, 8, 0.75]).reshape(1, 5, 1)
    model = write_model(tmp_path / "m.onnx", output)
    images = [photo(tmp_path), photo(tmp_path, "tall", (32, 64))]
    found = detect_on_host(model, images, PREP, HEAD, threads=1)
    assert found == {
        "wide": (Detection(24, 8, 40, 24, 0.75, 0),),
        "tall": (Detection(8, 24, 24, 40, 0.75, 0),),
    }


def test_model_that_does_not_load_is_told(tmp_path: Path) -> None:
    """A corrupt or missing model file is a ModelUnreadable with its path."""
    broken = tmp_path / "broken.onnx"
    for make in (lambda: None, lambda: broken.write_bytes(b"not a model")):
        make()
        with pytest.raises(ModelUnreadable, match=r"broken\.onnx does not load: "):
            detect_on_host(broken, [photo(tmp_path)], PREP, HEAD, threads=1)


def test_model_that_does_not_fit_the_images_is_told(tmp_path: Path) -> None:
    """A model of another input size is a ModelUnreadable that names the image."""
    model = write_model(tmp_path / "m.onnx", np.zeros((1, 5, 1)))
    other = ImagePrep(height=64, width=64)
    with pytest.raises(ModelUnreadable, match=r"does not run on .*wide\.png: "):
        detect_on_host(model, [photo(tmp_path)], other, HEAD, threads=1)


def test_output_that_does_not_fit_the_head_is_told(tmp_path: Path) -> None:
    """An output of another shape than the head's is an OutputError."""
    model = write_model(tmp_path / "m.onnx", np.zeros((1, 7, 1)))
    with pytest.raises(OutputError, match=r"\(1, 5, anchors\) expected"):
        detect_on_host(model, [photo(tmp_path)], PREP, HEAD, threads=1)


def test_corrupt_image_is_told(tmp_path: Path) -> None:
    """A truncated image is an ImageError with its path, not a silent absence."""
    model = write_model(tmp_path / "m.onnx", np.zeros((1, 5, 1)))
    image = photo(tmp_path)
    image.path.write_bytes(image.path.read_bytes()[:40])
    with pytest.raises(ImageError, match=r"wide\.png"):
        detect_on_host(model, [image], PREP, HEAD, threads=1)
