import fcntl
import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data import DataSpec, DetectionSet, LabelledImage, load
from models.data import shapes as shapes_module
from models.data.draw import CLASS_NAMES, Placed
from models.data.scenes import Scene, draw_scene
from models.data.shapes import NAME, ensure_shapes, write_shapes
from models.errors import DataError

FEW = {"train": 3, "val": 4}


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a handful of images where the whole set would be written."""
    monkeypatch.setattr(shapes_module, "COUNTS", FEW)
    monkeypatch.setattr(shapes_module.ensure_shapes, "__defaults__", (FEW,))


def test_scenes_have_the_same_pixels_and_boxes_on_every_machine() -> None:
    """The procedural set is fixed: pixels and boxes of its first images hash to this value."""
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for index in range(6):
            scene = draw_scene(split, index)
            digest.update(scene.pixels.tobytes())
            digest.update(repr(scene.boxes).encode())
    assert digest.hexdigest() == "26321fbde8f0fd82a4811a3cc776e9542b76e9a9cff05ecd4b50ac21952def65"


def test_splits_do_not_share_images() -> None:
    """No image of train is in val."""
    train = {draw_scene("train", index).pixels.tobytes() for index in range(12)}
    assert not any(draw_scene("val", index).pixels.tobytes() in train for index in range(12))


def test_scenes_cover_all_classes_and_are_never_square() -> None:
    """A few dozen scenes show every class, and each needs letterboxing."""
    scenes = [draw_scene("val", index) for index in range(60)]
    boxes = [box for scene in scenes for box in scene.boxes]
    assert {box.class_index for box in boxes} == set(range(len(CLASS_NAMES)))
    assert all(scene.pixels.shape[0] != scene.pixels.shape[1] for scene in scenes)


def test_boxes_lie_within_their_image() -> None:
    """Every box is at least two whole pixels wide and inside its image."""
    for index in range(40):
        scene = draw_scene("train", index)
        height, width = scene.pixels.shape[:2]
        for box in scene.boxes:
            assert 0 <= box.x1 <= box.x2 - 2 <= width - 2
            assert 0 <= box.y1 <= box.y2 - 2 <= height - 2


@pytest.mark.parametrize("class_index", range(len(CLASS_NAMES)))
def test_bounds_are_tight_around_the_drawn_pixels(class_index: int) -> None:
    """The box of a turned shape touches the pixels that the shape covers, within a pixel."""
    shape = Placed(class_index, x=60.3, y=48.7, rx=31.0, ry=24.0, angle=0.7)
    xs = (np.arange(120) + 0.5).astype(np.float32)[None, :]
    ys = (np.arange(100) + 0.5).astype(np.float32)[:, None]
    cover = shape.coverage(xs, ys)
    rows, columns = np.nonzero(cover > 0.5)
    drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert shape.bounds() == pytest.approx(drawn, abs=1.6)
    assert float(cover.sum()) == pytest.approx(shape.area(), rel=0.02)


def test_written_set_reads_back_as_it_was_drawn(tmp_path: Path) -> None:
    """Files of the set hold exactly the pixels and boxes that were drawn, in both splits."""
    write_shapes(tmp_path / "set", FEW)
    for split, count in FEW.items():
        dataset = load(DataSpec(str(tmp_path / "set"), "auto", split), tmp_path)
        assert len(dataset.images) == count
        assert dataset.class_names == CLASS_NAMES
        for index, image in enumerate(dataset.images):
            assert_same(draw_scene(split, index), image)


def assert_same(scene: Scene, image: LabelledImage) -> None:
    with Image.open(image.path) as file:
        assert np.array_equal(np.asarray(file), scene.pixels)
    assert image.boxes == scene.boxes


@pytest.mark.usefixtures("few_images")
def test_shapes_are_written_once(tmp_path: Path) -> None:
    """A second load of the procedural set finds the files of the first."""
    first = load(DataSpec("shapes"), tmp_path / "cache")
    stamps = [image.path.stat().st_mtime_ns for image in first.images]
    again = load(DataSpec("shapes"), tmp_path / "cache")
    assert again == first
    assert [image.path.stat().st_mtime_ns for image in again.images] == stamps
    assert first.name == f"{NAME}/val"


@pytest.mark.usefixtures("few_images")
def test_interrupted_writing_leaves_no_half_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing breaks off, the set is absent, and the next load writes all of it."""

    def draw_then_break(split: str, index: int) -> Scene:
        if (split, index) == ("val", 2):
            raise KeyboardInterrupt
        return draw_scene(split, index)

    with monkeypatch.context() as patched:
        patched.setattr(shapes_module, "draw_scene", draw_then_break)
        with pytest.raises(KeyboardInterrupt):
            ensure_shapes(tmp_path)
    assert not (tmp_path / NAME).exists()
    assert len(load(DataSpec("shapes"), tmp_path).images) == FEW["val"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [NAME]


@pytest.mark.usefixtures("few_images")
def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    """While one process holds the lock another does not write; it goes on when it is freed."""
    done = threading.Event()

    def second() -> None:
        ensure_shapes(tmp_path)
        done.set()

    with (tmp_path / f".{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert not done.wait(0.2)
        assert not (tmp_path / NAME).exists()
    assert done.wait(30)
    thread.join()
    assert (tmp_path / NAME).is_dir()


@pytest.mark.usefixtures("few_images")
def test_corrupt_image_in_the_cache_says_how_to_mend_it(tmp_path: Path) -> None:
    """A truncated file of the procedural set is named, with the folder to remove."""
    broken = load(DataSpec("shapes"), tmp_path).images[1].path
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=f"{broken.name}.*remove .*{NAME}"):
        load(DataSpec("shapes"), tmp_path)


def test_unwritable_cache_is_told(tmp_path: Path) -> None:
    """A cache folder that cannot be made is a DataError with its path."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot write the procedural set into .*file"):
        ensure_shapes(tmp_path / "file")


def test_unknown_split_of_shapes_is_refused(tmp_path: Path) -> None:
    """The procedural set names the splits that it has, and writes nothing for another one."""
    with pytest.raises(DataError, match="splits train, val, not 'test'"):
        load(DataSpec("shapes", split="test"), tmp_path)
    assert not list(tmp_path.iterdir())


def numbered(count: int) -> DetectionSet:
    images = [LabelledImage(f"i{n:03}", Path(f"{n}.png"), 8, 8, ()) for n in range(count)]
    return DetectionSet("set", ("a",), tuple(images))


def test_subset_is_seeded_and_ordered() -> None:
    """A subset depends on seed and images only, not on their order, and is sorted by id."""
    whole = numbered(100)
    turned = DetectionSet(whole.name, whole.class_names, whole.images[::-1])
    drawn = whole.subset(10, seed=3)
    ids = [image.image_id for image in drawn.images]
    assert drawn == turned.subset(10, seed=3)
    assert ids == sorted(ids)
    assert len(set(ids)) == 10
    assert drawn != whole.subset(10, seed=4)
    assert set(whole.subset(4, seed=3).images) < set(drawn.images)
    assert (drawn.name, drawn.class_names) == (whole.name, whole.class_names)


def test_subset_larger_than_the_set_is_the_set() -> None:
    """Asking for more images than there are gives all of them."""
    assert numbered(5).subset(9, seed=0) == numbered(5)
