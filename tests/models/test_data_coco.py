import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.data import Box, DataSpec, DetectionSet, load
from models.errors import DataError

INSTANCES: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "width": 40, "height": 30},
        {"id": 3, "file_name": "a.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20], "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 5, "bbox": [30, 20, 30.5, 9], "iscrowd": 1},
        {"id": 3, "image_id": 3, "category_id": 5, "bbox": [3, 4, 5, 0]},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 5, "name": "airplane"}],
}


def write_coco(root: Path, data: Any = INSTANCES, images: str = "val2017") -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / images).mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30)).save(root / images / name)
    text = data if isinstance(data, str) else json.dumps(data)
    (root / "annotations" / "instances_val2017.json").write_text(text)
    return root


def read(path: Path, split: str = "val") -> DetectionSet:
    return load(DataSpec(str(path), "auto", split), path)


@pytest.mark.parametrize(
    "images", ["val2017", "val", "images/val2017", "images/val", "images", "."]
)
def test_coco_set_is_read_wherever_its_images_lie(tmp_path: Path, images: str) -> None:
    """Classes are numbered by rising id, crowds become ignore, boxes are clipped."""
    dataset = read(write_coco(tmp_path / "coco", images=images))
    assert dataset.name == "coco/val"
    assert dataset.class_names == ("airplane", "toothbrush")
    first, second = dataset.images
    assert (first.image_id, first.width, first.height) == ("b.jpg", 40, 30)
    assert first.path.is_file()
    assert first.boxes == (Box(1, 2, 11, 22, 1),)
    assert second.boxes == (Box(30, 20, 40, 29, 0, ignore=True),)


def test_coco_json_file_can_be_given_itself(tmp_path: Path) -> None:
    """The path of the JSON file gives the same images as the folder."""
    root = write_coco(tmp_path)
    by_file = read(root / "annotations" / "instances_val2017.json")
    assert by_file.images == read(root).images
    assert by_file.name == "instances_val2017/val"


def changed(**changes: Any) -> dict[str, Any]:
    """INSTANCES with `key__number__field=value` replaced, and None removing the field."""
    data: dict[str, Any] = json.loads(json.dumps(INSTANCES))
    for place, value in changes.items():
        key, number, field = place.split("__")
        if value is None:
            del data[key][int(number)][field]
        else:
            data[key][int(number)][field] = value
    return data


DAMAGES: dict[str, tuple[Any, str]] = {
    "cut file": ('{"images": [\n{"id": 1,', "line 2: malformed JSON"),
    "no categories": ({"images": [], "annotations": []}, "missing required field `categories`"),
    "a list": ("[]", r"instances_val2017\.json: Expected `object`, got `array`"),
    "deep nesting": ("[" * 100_000, "instances_val2017.json"),
    "no images": ({"images": [], "annotations": [], "categories": []}, "no class names"),
    "no image": (INSTANCES | {"images": [], "annotations": []}, "'images' is empty"),
    "no bbox": (changed(annotations__1__bbox=None), r"`bbox` - at `\$.annotations\[1\]`"),
    "short bbox": (changed(annotations__0__bbox=[1, 2, 3]), r"length 4.*\$.annotations\[0\].bbox"),
    "word in bbox": (changed(annotations__0__bbox=[1, 2, 3, "x"]), r"bbox\[3\]"),
    "NaN in bbox": (changed(annotations__0__bbox=[float("nan"), 2, 3, 4]), "covers nothing"),
    "turned bbox": (changed(annotations__0__bbox=[9, 9, -3, 4]), r"annotations\[0\]: box \(9, 9\)"),
    "box outside": (changed(annotations__0__bbox=[50, 9, 3, 4]), "covers nothing of an image"),
    "unknown category": (
        changed(annotations__1__category_id=6),
        r"annotations\[1\]: category_id 6 is not one of the 2 ids",
    ),
    "unknown image": (
        changed(annotations__1__image_id=99),
        r"annotations\[1\]: image_id 99 is not in 'images'",
    ),
    "image id twice": (changed(images__1__id=7), "occurs twice"),
    "file twice": (changed(images__1__file_name="b.jpg"), "file_name of 'images' occurs twice"),
    "name twice": (changed(categories__1__name="toothbrush"), "'toothbrush' occurs 2 times"),
    "other size": (changed(images__0__width=30), "said to be 30 x 30, but .* has 40 x 30"),
    "image missing": (
        changed(images__0__file_name="c.jpg"),
        r"'c\.jpg' is missing; looked in .*val2017, .*images",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_coco_set_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Each kind of damage is a DataError with the file and the entry."""
    data, message = DAMAGES[name]
    with pytest.raises(DataError, match=message):
        read(write_coco(tmp_path, data))


def test_outlines_take_no_memory(tmp_path: Path) -> None:
    """Outlines, most of COCO's own files, are passed over: reading takes little beside the text."""
    data = json.loads(json.dumps(INSTANCES))
    data["annotations"][0]["segmentation"] = [[0.25] * 300_000]
    text = json.dumps(data)
    root = write_coco(tmp_path, text)
    tracemalloc.start()
    try:
        dataset = read(root)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset.images) == 2
    assert peak_bytes < 1.5 * len(text)


def test_an_image_that_changes_is_measured_again(tmp_path: Path) -> None:
    """Sizes are remembered as long as the file stays as it is, so that large sets load fast."""
    root = write_coco(tmp_path)
    assert read(root).images[1].width == 40
    Image.new("RGB", (50, 30)).save(root / "val2017" / "a.jpg")
    assert read(root).images[1].width == 50


def test_missing_split_says_what_is_there(tmp_path: Path) -> None:
    """A split without a JSON file is refused with the files that are there."""
    root = write_coco(tmp_path)
    with pytest.raises(DataError, match=r"instances_train\.json \(COCO\), found instances_val2017"):
        read(root, "train")


def test_layout_coco_of_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    """Told to read COCO where there is none, the loader says what it looked for."""
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match=r"\(COCO\), found no such folder; pictures/"):
        load(DataSpec(str(tmp_path), "coco", "val"), tmp_path)
