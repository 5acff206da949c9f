"""What the original YOLOv3 learns from."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: install the extra 'models'")

from models.nets.darknet import ANCHORS  # noqa: E402 - after the skip
from models.nets.darknet_decode import Decode  # noqa: E402
from models.train.loss import Truth  # noqa: E402
from models.train.yolov3_loss import owners, shape_fit, yolov3_loss  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SIDE = 416
STRIDES = (8, 16, 32)
CLASSES = 2


@pytest.fixture(scope="module")
def decode() -> Any:
    return Decode(CLASSES, torch.tensor(ANCHORS, dtype=torch.float32), STRIDES, SIDE)


def truth(*boxes: tuple[float, ...], classes: tuple[int, ...]) -> Truth:
    real = torch.ones(1, len(boxes), dtype=torch.bool)
    return Truth(torch.tensor([boxes]), torch.tensor([classes]), real)


def maps(fill: float = 0.0, objectness: float = -8.0) -> list[Any]:
    found = []
    for stride in STRIDES:
        side = SIDE // stride
        each = torch.full((1, 3, 5 + CLASSES, side, side), fill)
        each[:, :, 4] = objectness
        found.append(each.reshape(1, -1, side, side))
    return found


def test_shapes_are_compared_by_their_overlap_at_one_centre() -> None:
    """The IoU of two sizes, computed by hand."""
    fit = shape_fit(torch.tensor([[10.0, 10.0]]), torch.tensor([[10.0, 10.0], [20.0, 5.0]]))
    assert fit.tolist() == [[pytest.approx(1.0), pytest.approx(50 / 150)]]


def test_an_object_belongs_to_the_anchor_of_its_shape_in_its_cell(decode: Any) -> None:
    """A box as large as an anchor, in the middle of a cell: that anchor in that cell is one."""
    cx, cy = 5 * 16 + 8.0, 7 * 16 + 8.0
    box = (cx - 15, cy - 30.5, cx + 15, cy + 30.5)  # 30 x 61, the first of stride 16
    image, anchor, number = owners(decode, truth(box, classes=(1,)))
    wanted = 3 * 52 * 52 + 0 * 26 * 26 + 7 * 26 + 5
    assert wanted in anchor.tolist()
    assert set(image.tolist()) == {0}
    assert set(number.tolist()) == {0}
    outputs = decode(maps())[0, :2, anchor]
    assert ((outputs[0] - cx).abs() <= 16).all()
    assert ((outputs[1] - cy).abs() <= 16).all()


def test_every_object_gets_an_anchor_however_odd_its_shape(decode: Any) -> None:
    """A sliver that fits no anchor well still has its best one."""
    _, anchor, number = owners(decode, truth((0.0, 0.0, 416.0, 2.0), classes=(0,)))
    assert len(anchor) >= 1
    assert set(number.tolist()) == {0}


def test_two_objects_in_a_cell_do_not_share_an_anchor(decode: Any) -> None:
    """The one whose shape fits better keeps the place."""
    exact, rough = (100.0, 100.0, 110.0, 113.0), (99.0, 99.0, 111.0, 114.0)  # anchor 10 x 13
    _, anchor, number = owners(decode, truth(rough, exact, classes=(0, 1)))
    assert len(set(anchor.tolist())) == len(anchor)
    cell = int(106.5 // 8) * 52 + 105 // 8
    (kept,) = number[anchor == cell].tolist()
    assert kept == 1


def test_padding_owns_nothing(decode: Any) -> None:
    """An image without objects has no owners, and its loss is about objectness alone."""
    nothing = Truth(torch.zeros(1, 1, 4), torch.zeros(1, 1).long(), torch.zeros(1, 1).bool())
    assert len(owners(decode, nothing)[0]) == 0
    quiet = yolov3_loss(decode, maps(objectness=-12.0), nothing)
    loud = yolov3_loss(decode, maps(objectness=0.0), nothing)
    assert 0 < quiet.item() < 0.2 < loud.item()


def test_the_right_answer_has_nearly_no_loss(decode: Any) -> None:
    """Every owner pointing at its object, with its class and sure of it: next to nothing."""
    cx, cy = 5 * 16 + 8.0, 7 * 16 + 8.0
    box = (cx - 15, cy - 30.5, cx + 15, cy + 30.5)
    goal = truth(box, classes=(1,))
    _, anchor, _ = owners(decode, goal)
    joined = decode.join(maps(objectness=-12.0)).clone()
    for place in anchor.tolist():
        cell, size = float(decode.cells[0, 0, place]), decode.sizes[0, :, place]
        corner = decode.corners[0, :, place]
        share = (torch.tensor([cx, cy]) / cell - corner).clamp(1e-4, 1 - 1e-4)
        joined[0, :2, place] = torch.logit(share)
        joined[0, 2:4, place] = torch.log(torch.tensor([30.0, 61.0]) / size)
        joined[0, 4:, place] = torch.tensor([12.0, -12.0, 12.0])
    levels, at = [], 0
    for stride in STRIDES:
        side = SIDE // stride
        part = joined[:, :, at : at + 3 * side * side]
        at += 3 * side * side
        each = part.reshape(1, 5 + CLASSES, 3, side * side).transpose(1, 2)
        levels.append(each.reshape(1, -1, side, side))
    right = yolov3_loss(decode, levels, goal).item()
    assert right < 0.05
    assert right < 0.01 * yolov3_loss(decode, maps(), goal).item()


def test_good_boxes_that_own_nothing_are_not_punished(decode: Any) -> None:
    """An anchor over half on an object may be sure of itself though another one owns it."""
    box = (80.0, 80.0, 180.0, 180.0)
    goal = truth(box, classes=(0,))
    owned = set(owners(decode, goal)[1].tolist())
    joined = decode.join(maps())
    place = next(  # some anchor of the same cell that the object does not own
        index
        for index in range(joined.shape[2])
        if index not in owned
        and abs(float(decode.corners[0, 0, index] * decode.cells[0, 0, index]) - 128) < 1
        and abs(float(decode.corners[0, 1, index] * decode.cells[0, 0, index]) - 128) < 1
    )
    levels = maps()
    losses = []
    for sure in (-8.0, 8.0):
        changed = joined.clone()
        changed[0, 2:4, place] = torch.log(torch.tensor([100.0, 100.0]) / decode.sizes[0, :, place])
        changed[0, 4, place] = sure
        at = 0
        for scale, stride in enumerate(STRIDES):
            side = SIDE // stride
            part = changed[:, :, at : at + 3 * side * side]
            at += 3 * side * side
            each = part.reshape(1, 5 + CLASSES, 3, side * side).transpose(1, 2)
            levels[scale] = each.reshape(1, -1, side, side)
        losses.append(yolov3_loss(decode, levels, goal).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
