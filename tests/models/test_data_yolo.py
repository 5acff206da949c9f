from pathlib import Path

import pytest
from PIL import Image

from models.data import Box, DataSpec, DetectionSet, image_files, load, load_segmentation
from models.errors import DataError

LABELS = {"a": "1 0.5 0.5 0.5 1\n\n0 0.25 0.1 0.1 0.2\n", "b": "0 0.1 0.2 0.6 0.2 0.3 0.8\n"}


def write_yolo(root: Path, sub: str = "val", yaml: str | None = None) -> Path:
    for folder in ("images", "labels"):
        (root / folder / sub).mkdir(parents=True, exist_ok=True)
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 30)).save(root / "images" / sub / f"{name}.png")
    for name, text in LABELS.items():
        (root / "labels" / sub / f"{name}.txt").write_text(text)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def read(path: Path, split: str = "val") -> DetectionSet:
    return load(DataSpec(str(path), "auto", split), path)


BOXES = (
    (Box(10, 0, 30, 30, 1), Box(8, 0, 12, 6, 0)),
    (Box(4, 6, 24, 24, 0),),
    (),
)

YAMLS = {
    "list": "val: images/val\nnames: [cat, dog]\n",
    "mapping": "path: .\nval: images/val\nnames:\n  0: cat\n  1: dog\n",
    "several folders": "val: [images/val, images/val]\nnames: [cat, dog]\n",
    "text file": "val: val.txt\nnames: [cat, dog]\n",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yolo_set_by_data_yaml(tmp_path: Path, kind: str) -> None:
    """Shares of the image become pixels, outlines their bounding box, no file no objects."""
    root = write_yolo(tmp_path / "pets", yaml=YAMLS[kind])
    names = ["images/val/a.png", "./images/val/b.png", str(root / "images/val/c.png")]
    (root / "val.txt").write_text("\n".join(names))
    dataset = read(root)
    assert (dataset.name, dataset.class_names) == ("pets/val", ("cat", "dog"))
    assert [image.image_id for image in dataset.images] == ["a.png", "b.png", "c.png"]
    for image, boxes in zip(dataset.images, BOXES, strict=True):
        assert (image.width, image.height) == (40, 30)
        assert [box.class_index for box in image.boxes] == [box.class_index for box in boxes]
        for box, wanted in zip(image.boxes, boxes, strict=True):
            corners = (box.x1, box.y1, box.x2, box.y2)
            assert corners == pytest.approx((wanted.x1, wanted.y1, wanted.x2, wanted.y2))


def test_files_from_windows_are_read(tmp_path: Path) -> None:
    """A byte order mark before names, labels or a data.yaml is no part of what they say."""
    mark = "\ufeff"
    root = write_yolo(tmp_path / "pets")
    (root / "classes.txt").write_text(f"{mark}고양이\r\n개\r\n", encoding="utf-8")
    label = root / "labels" / "val" / "a.txt"
    label.write_text(mark + LABELS["a"], encoding="utf-8")
    assert read(root).class_names == ("고양이", "개")
    assert len(read(root).images[0].boxes) == 2
    (root / "data.yaml").write_text(mark + YAMLS["list"], encoding="utf-8")
    assert read(root).class_names == ("cat", "dog")


@pytest.mark.parametrize("sub", ["val", "."])
def test_yolo_folder_without_yaml(tmp_path: Path, sub: str) -> None:
    """Without data.yaml the folders are enough, and classes.txt names the classes."""
    root = write_yolo(tmp_path, sub)
    assert read(root).class_names == ("0", "1")
    (root / "classes.txt").write_text("cat\ndog\n")
    dataset = read(root)
    assert dataset.class_names == ("cat", "dog")
    assert [len(image.boxes) for image in dataset.images] == [2, 1, 0]


def test_yaml_file_can_be_given_itself(tmp_path: Path) -> None:
    """The path of the YAML file gives the same images as the folder."""
    root = write_yolo(tmp_path, yaml=YAMLS["list"])
    assert read(root / "data.yaml").images == read(root).images


LINES = {
    "1 0.5 0.5 0.5": "4 fields; 'class cx cy w h'",
    "1 0.5 0.5 0.5 0.5 0.9": "6 fields",
    "x 0.5 0.5 0.5 0.5": "invalid literal for int.*'x'",
    "1 0.5 0.5 0.5 wide": "could not convert string to float: 'wide'",
    "2 0.5 0.5 0.5 0.5": "class 2, but classes are 0 to 1",
    "-1 0.5 0.5 0.5 0.5": "class -1, but classes are 0 to 1",
    "1 20 15 10 10": "shares of the image's size, 0 to 1, expected",
    "1 nan 0.5 0.5 0.5": "shares of the image's size",
    "1 0.5 0.5 0 0.5": "covers nothing",
}


@pytest.mark.parametrize("line", LINES)
def test_bad_label_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    """A line that is no label is a DataError with file, line number and reason."""
    root = write_yolo(tmp_path, yaml=YAMLS["list"])
    with (root / "labels/val/a.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=rf"a\.txt: line 4: .*{LINES[line]}"):
        read(root)


BAD_YAMLS = {
    "val: [": "malformed YAML",
    "- val": "a mapping with 'names' and 'val' was expected",
    "train: images/val\nnames: [a]": "looked for split 'val', found train, names",
    "val: images/val\n": "names: a list, or a mapping",
    "val: images/val\nnames: {1: a, 2: b}": "keys 0 to 1 expected",
    "val: images/val\nnames: [a, a]": "'a' occurs 2 times",
    "val: images/val\nnames: []": "no class names",
    "val: images/test\nnames: [a, b]": "'images/test' means .* not a folder",
    "val: labels/val\nnames: [a, b]": r"looked for images .*found a\.txt, b\.txt",
    "val: gone.txt\nnames: [a, b]": r"gone\.txt: cannot be read",
    "val: empty.txt\nnames: [a, b]": "split 'val' names no image",
    "val: more.txt\nnames: [a, b]": r"d\.png: the image is missing",
}


@pytest.mark.parametrize("text", BAD_YAMLS)
def test_bad_data_yaml_is_refused(tmp_path: Path, text: str) -> None:
    """A data.yaml that does not fit is a DataError saying what was looked for."""
    root = write_yolo(tmp_path, yaml=text)
    (root / "empty.txt").write_text("\n")
    (root / "more.txt").write_text("images/val/a.png\nimages/val/d.png\n")
    with pytest.raises(DataError, match=BAD_YAMLS[text]):
        read(root)


def test_set_without_any_label_file_is_refused(tmp_path: Path) -> None:
    """Images without a single label file mean a wrong path, not an empty set."""
    root = write_yolo(tmp_path, yaml=YAMLS["list"])
    for label in (root / "labels/val").iterdir():
        label.unlink()
    with pytest.raises(DataError, match=r"no image of split 'val' has labels, e.g. .*a\.txt"):
        read(root)


def test_folder_without_the_split_is_refused(tmp_path: Path) -> None:
    """Without data.yaml, a split without a folder is refused with those that are there."""
    with pytest.raises(DataError, match=r"split 'test' at .*test, found val/"):
        read(write_yolo(tmp_path), "test")


def test_layout_yolo_of_another_folder_is_refused(tmp_path: Path) -> None:
    """Told to read YOLO where there is none, the loader says what it looked for."""
    with pytest.raises(DataError, match=r"looked for data\.yaml.*found an empty folder"):
        load(DataSpec(str(tmp_path), "yolo", "val"), tmp_path)


def test_image_files_are_found_below_a_folder(tmp_path: Path) -> None:
    """Calibration images come sorted from all subfolders; other and hidden files do not."""
    for name in ("z.JPG", "sub/a.png", "notes.txt", ".hidden.png", ".checkpoints/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert image_files(tmp_path) == (tmp_path / "sub/a.png", tmp_path / "z.JPG")
    assert image_files(tmp_path / "z.JPG") == (tmp_path / "z.JPG",)


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_a_hidden_folder_is_no_split(tmp_path: Path, labels: str) -> None:
    """What a notebook or a file manager leaves among the images divides no set."""
    for folder in ("images", labels, "images/.checkpoints"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for name in "abcdef":
        for folder in ("images", "masks", "images/.checkpoints"):
            if (tmp_path / "set" / folder).is_dir():
                Image.new("L", (8, 8)).save(tmp_path / "set" / folder / f"{name}.png")
        (tmp_path / "set" / labels / f"{name}.txt").write_text("")
    spec = DataSpec(str(tmp_path / "set"), "yolo" if labels == "labels" else "masks", "train")
    found = load(spec, tmp_path) if labels == "labels" else load_segmentation(spec, tmp_path)
    assert len(found.images) == (6 if labels == "labels" else 4)


def test_image_files_refuses_what_has_none(tmp_path: Path) -> None:
    """A folder without images, or a path that is none, is told with what is there."""
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"looked for images .*\.png.*found notes\.txt"):
        image_files(tmp_path)
    with pytest.raises(DataError, match=r"notes\.txt: no such folder of images"):
        image_files(tmp_path / "notes.txt")
