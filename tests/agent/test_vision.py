import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent import vision
from agent.vision import Geometry, ImageError, OutputError, detections, nms, prepare, read_image
from agent.wire import DetectHead, ImagePrep

SAME = Geometry(scale=1.0, pad_x=0.0, pad_y=0.0, width=640, height=640)


def v8(boxes, scores, num_classes=2, anchors=20):
    """One yolo_v8 output: `boxes` as cx, cy, w, h and `scores` as (class, score) an anchor."""
    output = np.zeros((1, 4 + num_classes, anchors), dtype=np.float32)
    for anchor, (box, (class_index, score)) in enumerate(zip(boxes, scores, strict=True)):
        output[0, :4, anchor] = box
        output[0, 4 + class_index, anchor] = score
    return output


def head(decoder="yolo_v8", num_classes=2, **kwargs):
    return DetectHead(decoder, num_classes, **kwargs)


def plain_nms(boxes, classes, threshold, limit):
    kept = []
    for i in range(len(boxes)):
        if all(classes[i] != classes[j] or iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept[:limit]


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def png_of(width, height):
    """A small PNG file that claims a huge size."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm"])
def test_lossless_images_come_back_exactly(tmp_path, name):
    """A lossless file decodes to the pixels that were written, as RGB."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), pixels)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    """Grey, palette, alpha and CMYK images all decode to (H, W, 3) uint8."""
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("RGB", (5, 7), (255, 0, 0)).convert(mode).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert (image.shape, image.dtype) == ((7, 5, 3), np.uint8)


def test_a_palette_with_transparency_reads_without_a_warning(tmp_path):
    """A palette image with several transparent entries decodes to its colours."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [10, 200, 30]


def test_exif_orientation_is_ignored(tmp_path):
    """The pixels stay as stored, because boxes of data sets refer to stored pixels."""
    image = Image.new("RGB", (6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (3, 6, 3)


def test_a_truncated_image_is_refused_at_any_length(tmp_path):
    """A JPEG cut anywhere raises ImageError with its path, never another exception."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    for size in range(0, len(data) - 2, len(data) // 40):
        (tmp_path / "cut.jpg").write_bytes(data[:size])
        with pytest.raises(ImageError, match=r"cut\.jpg"):
            read_image(tmp_path / "cut.jpg")


def test_flipped_bytes_give_an_image_or_an_image_error(tmp_path):
    """A PNG with random bytes changed never raises anything but ImageError."""
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    data = np.frombuffer((tmp_path / "a.png").read_bytes(), dtype=np.uint8)
    refused = 0
    for _ in range(200):
        broken = data.copy()
        broken[random.integers(8, len(data), 3)] = random.integers(0, 256, 3)
        (tmp_path / "b.png").write_bytes(broken.tobytes())
        try:
            read_image(tmp_path / "b.png")
        except ImageError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("side", [8_000, 10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    """A small file that claims very many pixels is refused from its header."""
    (tmp_path / "bomb.png").write_bytes(png_of(side, side))
    with pytest.raises(ImageError, match="pixels"):
        read_image(tmp_path / "bomb.png")


def test_missing_files_folders_and_texts_are_no_images(tmp_path):
    """What is not an image file raises ImageError with the path and exit code 28."""
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "a.txt"):
        with pytest.raises(ImageError, match=str(path)) as caught:
            read_image(path)
        assert caught.value.exit_code == 28


def test_sixteen_bits_a_channel_are_refused(tmp_path):
    """A 16-bit image is refused, because Pillow would clip it silently."""
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageError, match="8 bits"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("decoder_file", ["a.eps", "a.gbr"])
def test_only_a_few_formats_are_ever_tried(tmp_path, decoder_file):
    """Formats that run other programs or are rare are refused."""
    (tmp_path / decoder_file).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImageError):
        read_image(tmp_path / decoder_file)


@pytest.mark.parametrize(
    ("size", "placed"),
    [((40, 20), (0, 16, 64, 32)), ((20, 40), (16, 0, 32, 64)), ((64, 64), (0, 0, 64, 64))],
)
def test_letterbox_keeps_the_aspect_and_centres(size, placed):
    """The image fills one side, stands in the middle of the other, and grey 114 is around it."""
    width, height = size
    tensor, geometry = prepare(np.full((height, width, 3), 255, np.uint8), ImagePrep(64, 64))
    x, y, w, h = placed
    expected = np.full((1, 3, 64, 64), np.float32(114) / np.float32(255), dtype=np.float32)
    expected[:, :, y : y + h, x : x + w] = 1.0
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert np.array_equal(tensor, expected)
    assert (geometry.pad_x, geometry.pad_y, geometry.width, geometry.height) == (x, y, *size)


def test_letterbox_keeps_channels_in_order_and_values_exact():
    """Without resizing, tensor[0, c, y, x] is pixel[y, x, c] / 255."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    tensor, _ = prepare(pixels, ImagePrep(8, 12))
    assert np.array_equal(tensor[0], pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_a_line_of_pixels_survives_the_letterbox():
    """An image 3,000 times wider than high still keeps one row."""
    tensor, _ = prepare(np.zeros((1, 3000, 3), np.uint8), ImagePrep(64, 64))
    assert tensor.shape == (1, 3, 64, 64)
    assert (tensor == 0).any(axis=3).sum() == 3


@pytest.mark.parametrize("size", [(1280, 720), (333, 500), (64, 64)])
def test_a_box_returns_to_where_it_was(size):
    """A box put through the letterbox's geometry comes back to within 0.01 pixel."""
    width, height = size
    _, g = prepare(np.zeros((height, width, 3), np.uint8), ImagePrep(320, 320))
    x1, y1, x2, y2 = 0.1 * width, 0.2 * height, 0.6 * width, 0.9 * height
    centre = [(x1 + x2) / 2 * g.scale + g.pad_x, (y1 + y2) / 2 * g.scale + g.pad_y]
    output = v8([[*centre, (x2 - x1) * g.scale, (y2 - y1) * g.scale]], [(1, 0.8)])
    (found,) = detections([output], head(), g)
    assert (found.x1, found.y1, found.x2, found.y2) == pytest.approx((x1, y1, x2, y2), abs=0.01)
    assert (found.score, found.class_index) == (pytest.approx(0.8), 1)


def test_boxes_are_clipped_and_empty_ones_dropped():
    """A box over the edge ends at the edge; one wholly in the padding is not returned."""
    geometry = Geometry(scale=1.0, pad_x=0.0, pad_y=100.0, width=640, height=440)
    output = v8([[0, 320, 100, 100], [320, 40, 50, 50]], [(0, 0.9), (0, 0.8)])
    (found,) = detections([output], head(), geometry)
    assert (found.x1, found.y1, found.x2, found.y2) == (0.0, 170.0, 50.0, 270.0)


def test_nms_is_class_aware():
    """Two equal boxes of one class become one; of two classes they stay two."""
    boxes = [[100, 100, 50, 50], [101, 100, 50, 50]]
    one = detections([v8(boxes, [(0, 0.9), (0, 0.8)])], head(), SAME)
    two = detections([v8(boxes, [(0, 0.9), (1, 0.8)])], head(), SAME)
    assert [d.score for d in one] == [pytest.approx(0.9)]
    assert [d.class_index for d in two] == [0, 1]


def test_one_anchor_may_name_two_classes():
    """Every class of an anchor above the threshold is a detection, as mAP expects."""
    output = v8([[100, 100, 50, 50]], [(0, 0.9)])
    output[0, 5, 0] = 0.4
    assert [d.class_index for d in detections([output], head(), SAME)] == [0, 1]


def test_the_score_threshold_and_the_maximum_hold():
    """Scores below the threshold go, and the best `max_detections` stay in order."""
    boxes = [[30 * i + 20, 20, 10, 10] for i in range(10)]
    output = v8(boxes, [(0, 0.05 + i / 20) for i in range(10)])
    found = detections([output], head(score_threshold=0.2, max_detections=4), SAME)
    assert [d.score for d in found] == pytest.approx([0.5, 0.45, 0.4, 0.35])
    assert detections([output], head(score_threshold=0.6), SAME) == ()
    assert detections([output], head(max_detections=0), SAME) == ()


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms_agrees_with_the_definition(classes, threshold):
    """The vectorised NMS keeps exactly the boxes that two plain loops keep."""
    random = np.random.default_rng(classes)
    corner = random.uniform(0, 60, (150, 2))
    boxes = np.concatenate((corner, corner + random.uniform(5, 40, (150, 2))), axis=1)
    names = random.integers(0, classes, 150)
    assert nms(boxes, names, threshold, 60).tolist() == plain_nms(boxes, names, threshold, 60)


def test_many_candidates_are_cut_by_score(monkeypatch):
    """Above the limit of candidates the best scores enter NMS, ties in order of the anchors."""
    boxes = [[30 * (i % 20) + 20, 20 + 30 * (i // 20), 10, 10] for i in range(40)]
    scores = [(0, 0.5)] * 30 + [(0, 0.9)] * 10
    output = v8(boxes, scores, anchors=40)
    everything = detections([output], head(), SAME)
    monkeypatch.setattr(vision, "MAX_CANDIDATES", 15)
    assert detections([output], head(), SAME) == everything[:15]


def test_a_collapsed_box_is_dropped():
    """Boxes without area, as a badly quantized model gives them, are no detections."""
    output = v8([[100, 100, 0, 50], [100, 100, 50, -1], [300, 300, 50, 50]], [(0, 0.9)] * 3)
    assert len(detections([output], head(), SAME)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_anchors_that_are_not_finite_are_dropped(bad):
    """An anchor with one value that is not finite goes; the others stay."""
    output = v8([[100, 100, 50, 50], [300, 300, 50, 50]], [(0, 0.9), (0, 0.8)])
    output[0, 2, 0] = bad
    assert [d.score for d in detections([output], head(), SAME)] == [pytest.approx(0.8)]


@pytest.mark.parametrize("decoder", ["yolo_v8", "end_to_end"])
def test_an_output_without_a_finite_anchor_is_refused(decoder):
    """A model that gives only NaN is broken, which is not the same as seeing nothing."""
    with pytest.raises(OutputError, match="finite"):
        detections([np.full((1, 6, 6), np.nan, np.float32)], head(decoder), SAME)


def test_huge_finite_values_do_not_overflow():
    """The largest float32 as a coordinate is clipped without a warning."""
    huge = float(np.finfo(np.float32).max)
    output = v8([[huge, huge, huge, huge], [320, 320, huge, huge]], [(0, 0.9), (0, 0.8)])
    found = detections([output], head(), SAME)
    assert (found[0].x2, found[0].y2) == (640.0, 640.0)


def test_end_to_end_output_is_mapped_back_without_nms():
    """Rows above the threshold come back in order of score, duplicates included."""
    rows = [[10, 20, 30, 40, 0.5, 1], [10, 20, 30, 40, 0.7, 1], [0, 0, 0, 0, 0.0, 0]]
    geometry = Geometry(scale=0.5, pad_x=0.0, pad_y=10.0, width=640, height=480)
    found = detections([np.array([rows], np.float32)], head("end_to_end"), geometry)
    assert [(d.x1, d.y1, d.x2, d.y2) for d in found] == [(20.0, 20.0, 60.0, 60.0)] * 2
    assert [d.score for d in found] == pytest.approx([0.7, 0.5])


@pytest.mark.parametrize(
    ("decoder", "output"),
    [
        ("yolo_v8", np.zeros((1, 7, 20), np.float32)),
        ("yolo_v8", np.zeros((2, 6, 20), np.float32)),
        ("yolo_v8", np.zeros((6, 20), np.float32)),
        ("yolo_v8", np.zeros((1, 6, 20), np.int64)),
        ("end_to_end", np.zeros((1, 20, 7), np.float32)),
        ("end_to_end", np.array([[[0, 0, 9, 9, 0.9, 2]]], np.float32)),
        ("end_to_end", np.array([[[0, 0, 9, 9, 0.9, 0.5]]], np.float32)),
    ],
)
def test_outputs_that_do_not_fit_the_head_are_refused(decoder, output):
    """A wrong shape, type or class raises OutputError, exit code 29, naming the decoder."""
    with pytest.raises(OutputError, match=decoder) as caught:
        detections([output], head(decoder), SAME)
    assert caught.value.exit_code == 29


def test_two_outputs_are_refused():
    """A model with more outputs than the head knows is refused."""
    with pytest.raises(OutputError, match="2"):
        detections([np.zeros((1, 6, 20), np.float32)] * 2, head(), SAME)


def test_half_precision_outputs_decode():
    """A float16 output gives the same boxes as its float32 values."""
    output = v8([[100, 100, 50, 50]], [(0, 0.5)])
    assert detections([output.astype(np.float16)], head(), SAME) == detections(
        [output], head(), SAME
    )


def test_pictures_are_read_by_path(tmp_path):
    """A JPEG of one colour comes back close to that colour."""
    path = Path(tmp_path / "a.jpg")
    Image.new("RGB", (16, 16), (200, 30, 90)).save(path, quality=95)
    assert np.abs(read_image(path).astype(int) - [200, 30, 90]).max() <= 3
