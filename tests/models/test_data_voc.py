from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from models.data import Box, DataSpec, DetectionSet, load
from models.data.voc import VOC_CLASSES
from models.errors import DataError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
</object>"""

Damage = Callable[[Path], object]


def voc_object(name: str, box: tuple[object, ...], difficult: int = 0) -> str:
    return OBJECT.format(name=name, box=box, difficult=difficult)


def write_voc(root: Path, annotations: dict[str, str], split: str = "val") -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, objects in annotations.items():
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
        size = "<size><width>40</width><height>30</height></size>"
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        )
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(annotations) + "\n")
    return root


def read(root: Path, split: str = "val") -> DetectionSet:
    return load(DataSpec(str(root), "auto", split), root)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_voc(
        tmp_path / "VOC2007",
        {
            "b": voc_object("dog", (1, 1, 40, 30)) + voc_object("cat", (5, 6, 10, 12), 1),
            "a": "",
        },
    )


def test_boxes_names_and_order_of_a_voc_set(small: Path) -> None:
    """VOC's inclusive pixels from 1 become exclusive ones from 0, 'difficult' becomes ignore."""
    dataset = read(small)
    assert dataset.name == "VOC2007/val"
    assert dataset.class_names == VOC_CLASSES
    first, second = dataset.images
    assert (first.image_id, first.width, first.height) == ("b", 40, 30)
    assert first.path == small / "JPEGImages" / "b.jpg"
    assert first.boxes == (
        Box(0, 0, 40, 30, VOC_CLASSES.index("dog")),
        Box(4, 5, 10, 12, VOC_CLASSES.index("cat"), ignore=True),
    )
    assert second.boxes == ()


def test_class_names_come_from_all_splits(tmp_path: Path) -> None:
    """Own classes are numbered alike in every split, though no split holds all of them."""
    root = write_voc(tmp_path, {"one": voc_object("zebra", (1, 1, 9, 9))}, "train")
    write_voc(root, {"two": voc_object("ape", (1, 1, 9, 9))}, "val")
    assert read(root, "train").class_names == read(root, "val").class_names == ("ape", "zebra")


def test_class_names_of_a_file_win(small: Path) -> None:
    """A classes.txt fixes the order of the classes."""
    (small / "classes.txt").write_text("dog\ncat\n\n")
    dataset = read(small)
    assert dataset.class_names == ("dog", "cat")
    assert [box.class_index for box in dataset.images[0].boxes] == [0, 1]


def test_loading_decodes_no_pixels(small: Path) -> None:
    """An image whose header is whole loads, though its pixels are cut off."""
    image = small / "JPEGImages" / "b.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[: whole.index(b"\xff\xda") + 20])
    assert read(small).images[0].width == 40


def replace(file: str, old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "unclosed tag": (replace("Annotations/b.xml", "</size>", ""), r"b\.xml: malformed XML: .*line"),
    "no annotation": (
        lambda root: (root / "Annotations/b.xml").unlink(),
        r"b\.xml: cannot be read",
    ),
    "no image": (lambda root: (root / "JPEGImages/b.jpg").unlink(), "image of 'b' is missing"),
    "empty image": (
        lambda root: (root / "JPEGImages/b.jpg").write_bytes(b""),
        r"b\.jpg: not a readable image",
    ),
    "other size": (
        replace("Annotations/b.xml", "<width>40", "<width>400"),
        r"b\.xml: size 400 x 30, but .*b\.jpg has 40 x 30",
    ),
    "word as number": (
        replace("Annotations/b.xml", "<xmin>5", "<xmin>five"),
        r"b\.xml: object 2: bndbox/xmin is 'five', a number",
    ),
    "no coordinate": (
        replace("Annotations/b.xml", "<ymax>30</ymax>", ""),
        r"object 1: bndbox/ymax is None",
    ),
    "not a number": (replace("Annotations/b.xml", "<xmin>1<", "<xmin>nan<"), "xmin is 'nan'"),
    "turned box": (
        replace("Annotations/b.xml", "<xmax>10", "<xmax>2"),
        r"object 2: box \(4, 5\)-\(2, 12\) covers nothing of an image of 40 x 30",
    ),
    "no split": (
        lambda root: (root / "ImageSets/Main/val.txt").rename(root / "ImageSets/Main/test.txt"),
        r"looked for split 'val' at .*val\.txt, found test",
    ),
    "no lists": (
        lambda root: (root / "ImageSets/Main/val.txt").unlink(),
        "found no list in .*Main",
    ),
    "empty split": (replace("ImageSets/Main/val.txt", "b\na\n", "\n"), "the split has no images"),
    "image twice": (replace("ImageSets/Main/val.txt", "b\n", "b\nb\n"), "1 images are named more"),
    "class not listed": (
        lambda root: (root / "classes.txt").write_text("cat\n"),
        r"b\.xml: object 1: class 'dog' is not one of cat",
    ),
    "class listed twice": (
        lambda root: (root / "classes.txt").write_text("cat\ndog\ncat\n"),
        r"classes\.txt: class name 'cat' occurs 2 times",
    ),
    "no class listed": (
        lambda root: (root / "classes.txt").write_text("\n"),
        r"classes\.txt: no class names",
    ),
    "not text": (
        lambda root: (root / "Annotations/b.xml").write_bytes(b"\xff\xfe\x00"),
        r"b\.xml: cannot be read",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_voc_set_is_refused_by_name(small: Path, name: str) -> None:
    """Each kind of damage is a DataError with the file and what is wrong in it."""
    damage, message = DAMAGES[name]
    damage(small)
    with pytest.raises(DataError, match=message):
        read(small)


def test_wrong_folder_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    """A folder of no layout is refused with the layouts' marks and the folder's entries."""
    (tmp_path / "holiday.jpg").write_bytes(b"")
    (tmp_path / "trip").mkdir()
    with pytest.raises(DataError, match=r"JPEGImages/.*data\.yaml.*found holiday\.jpg, trip/"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"looked for JPEGImages/ .*\(VOC\), found holiday"):
        load(DataSpec(str(tmp_path), "voc", "val"), tmp_path)


def test_missing_path_is_told(tmp_path: Path) -> None:
    """A path that is not there is a DataError that names it."""
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        read(tmp_path / "nowhere")


def test_empty_folder_is_told(tmp_path: Path) -> None:
    """A folder with nothing in it is told as such."""
    with pytest.raises(DataError, match="found an empty folder"):
        read(tmp_path)


def test_shapes_as_layout_of_a_path_is_refused(tmp_path: Path) -> None:
    """The procedural set is no layout of a user's folder."""
    with pytest.raises(DataError, match="needs the source 'shapes' too, not '/data'"):
        load(DataSpec("/data", "shapes", "val"), tmp_path)
