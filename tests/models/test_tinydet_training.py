import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: install the extra 'models'")

from agent.wire import ImagePrep  # noqa: E402 - after the skip
from models.data.draw import CLASS_NAMES  # noqa: E402
from models.nets.tinydet import Decode, TinyDet, anchor_grid, count_parameters  # noqa: E402
from models.train.batches import Example, augment, collate, load_example  # noqa: E402
from models.train.export import Training, export_onnx  # noqa: E402
from models.train.loss import Losses, Truth, assign, detection_loss, overlap  # noqa: E402
from models.train.tinydet import train  # noqa: E402

Tensor = torch.Tensor

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(600)]

TRAINING = Training(train_images=16, epochs=8, schedule_epochs=10, seed=5, bfloat16=False)


def truth(*boxes: tuple[float, ...], classes: tuple[int, ...]) -> Truth:
    real = torch.ones(1, len(boxes), dtype=torch.bool)
    return Truth(torch.tensor([boxes]), torch.tensor([classes]), real)


def test_parameters_and_output_shape() -> None:
    """Under a million parameters; 525 anchors of 4 + 6 numbers at 160 pixels."""
    net = TinyDet(6)
    assert count_parameters(net) < 1_000_000
    assert net(torch.zeros(2, 3, 160, 160)).shape == (2, 10, 525)


def test_other_sizes_are_multiples_of_32() -> None:
    """A size that the strides do not divide is refused with the number."""
    assert TinyDet(2, 96)(torch.zeros(1, 3, 96, 96)).shape == (1, 6, 144 + 36 + 9)
    with pytest.raises(ValueError, match="imgsz is 100"):
        TinyDet(2, 100)


def test_decode_puts_sides_where_the_logits_say() -> None:
    """A cell's four distances, in strides after softplus, become centre and size in pixels."""
    net = TinyDet(1, 32)
    levels = [(torch.zeros(1, 4, s, s), torch.zeros(1, 1, s, s)) for s in (4, 2, 1)]
    cells = torch.tensor([1.0, 2.0, 3.0, 4.0])  # left, top, right, bottom
    levels[0][0][0, :, 1, 2] = torch.log(torch.expm1(cells))
    out = net.decode(levels)[0, :, 1 * 4 + 2]
    x, y = (2 + 0.5) * 8, (1 + 0.5) * 8
    wanted = [x + (3 - 1) * 8 / 2, y + (4 - 2) * 8 / 2, (1 + 3) * 8, (2 + 4) * 8, 0.5]
    assert out.tolist() == pytest.approx(wanted, abs=1e-4)


def test_overlap_of_known_boxes() -> None:
    """IoU and GIoU of two boxes, as computed by hand."""
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    assert overlap(a, b).item() == pytest.approx(1 / 7, abs=1e-5)
    assert overlap(a, b, generalized=True).item() == pytest.approx(1 / 7 - 2 / 9, abs=1e-5)


def test_cells_go_to_the_object_that_they_lie_in() -> None:
    """Owners lie in their object, padding owns nothing, the best cell wants its own fit."""
    centres, _ = anchor_grid(64)
    boxes = torch.zeros(1, 84, 4)
    boxes[..., :2], boxes[..., 2:] = centres[0].T - 10, centres[0].T + 10
    objects = Truth(
        torch.tensor([[[2.0, 2.0, 22.0, 22.0], [40.0, 40.0, 60.0, 60.0], [0.0, 0.0, 64.0, 64.0]]]),
        torch.tensor([[0, 1, 0]]),
        torch.tensor([[True, True, False]]),
    )
    owner, wanted = assign(torch.full((1, 84, 2), 0.5), boxes, centres[0].T, objects)
    for number, (low, high) in enumerate(((2, 22), (40, 60))):
        mine = (owner[0] == number) & (wanted[0] > 0)
        assert mine.any()
        places = centres[0].T[mine]
        assert ((places > low) & (places < high)).all()
        fits = overlap(boxes[0, mine], objects.boxes[0, number])
        assert wanted[0, mine].max().item() == pytest.approx(fits.max().item(), abs=1e-4)
    assert set(owner[0][wanted[0] > 0].tolist()) == {0, 1}


def test_object_smaller_than_a_cell_still_gets_one() -> None:
    """A box between four cell centres is not forgotten."""
    centres, _ = anchor_grid(64)
    boxes = torch.cat([centres[0].T - 6, centres[0].T + 6], dim=1)[None]
    small = truth((15.0, 15.0, 17.0, 17.0), classes=(0,))
    _, wanted = assign(torch.full((1, 84, 1), 0.5), boxes, centres[0].T, small)
    assert (wanted > 0).any()


def losses_of(decode: Decode, distances: Tensor, logits: Tensor, objects: Truth) -> Losses:
    return detection_loss(distances, logits, decode.centres, decode.strides, objects)


def test_loss_without_objects_is_only_about_classes() -> None:
    """An image without objects pulls scores down and leaves boxes alone."""
    net = TinyDet(2, 64)
    empty = Truth(
        torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1).bool()
    )
    joined = net.decode.join(net.levels(torch.zeros(1, 3, 64, 64)))
    losses = losses_of(net.decode, *joined, empty)
    assert losses.box.item() == 0
    assert losses.cls.item() > 0


def test_loss_falls_when_the_prediction_is_right() -> None:
    """Pointing the right cell's distances and class at the object lowers both parts."""
    decode = TinyDet(2, 64).decode
    goal = truth((12.0, 12.0, 28.0, 28.0), classes=(1,))
    distances, logits = torch.zeros(1, 4, 84), torch.full((1, 2, 84), -4.0)
    before = losses_of(decode, distances, logits, goal)
    cell = 2 * 8 + 2  # its centre is (20, 20): one cell of 8 pixels to every side
    distances[0, :, cell] = torch.log(torch.expm1(torch.tensor(1.0)))
    logits[0, 1, cell] = 2.0
    after = losses_of(decode, distances, logits, goal)
    assert after.box < before.box
    assert after.cls < before.cls


@pytest.mark.parametrize("seed", range(12))
def test_augmented_boxes_stay_on_their_object(seed: int) -> None:
    """However an image is mirrored, moved and coloured, its box holds just the bright square."""
    pixels = np.full((64, 64, 3), 20, dtype=np.uint8)
    pixels[12:30, 20:26] = 200
    example = Example(pixels, np.array([[20, 12, 26, 30]], dtype=np.float32), np.array([4]))
    changed = augment(example, np.random.default_rng(seed), pad_value=20)
    x1, y1, x2, y2 = changed.boxes[0].astype(int)
    bright = changed.pixels.min(axis=2) > 100
    assert bright[y1:y2, x1:x2].all()
    assert bright.sum() == 18 * 6
    assert changed.classes.tolist() == [4]


def test_examples_are_letterboxed_with_their_boxes() -> None:
    """Boxes of a training image lie within the part of the input that holds the image."""
    example = load_example("train", 0, ImagePrep(height=160, width=160))
    held = np.nonzero((example.pixels != 114).any(axis=2))
    assert example.pixels.shape == (160, 160, 3)
    assert example.boxes[:, 1].min() >= held[0].min() - 1
    assert example.boxes[:, 3].max() <= held[0].max() + 2
    assert example.boxes[:, 0].min() >= held[1].min() - 1
    assert example.boxes[:, 2].max() <= held[1].max() + 2


def test_collated_batch_pads_objects() -> None:
    """Images with fewer objects are padded, and the padding is marked."""
    prep = ImagePrep(height=160, width=160)
    examples = [load_example("train", index, prep) for index in range(3)]
    images, objects = collate(examples)
    assert images.shape == (3, 3, 160, 160)
    assert float(images.max()) <= 1
    assert objects.real.sum(dim=1).tolist() == [len(e.classes) for e in examples]


@pytest.mark.slow
def test_training_is_repeatable_and_lowers_the_loss() -> None:
    """The same seed gives the same weights; a few epochs lower the loss."""
    said: list[str] = []
    first, second = train(TRAINING, said.append), train(TRAINING, lambda _: None)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    losses = [float(line.split("loss")[1].split()[0]) for line in said if "epoch " in line]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


def test_exported_file_computes_what_the_network_does(tmp_path: Path) -> None:
    """The ONNX file gives the network's own output, and names all of its decode so."""
    torch.manual_seed(1)
    net = TinyDet(len(CLASS_NAMES)).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    file = tmp_path / "net.onnx"
    export_onnx(net, file, CLASS_NAMES, TRAINING)
    image = torch.rand(1, 3, 160, 160)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": image.numpy()})
    with torch.no_grad():
        assert np.allclose(output, net(image).numpy(), rtol=1e-4, atol=1e-3)
    model = onnx.load(str(file))
    assert model.opset_import[0].version == 17
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["training"])["seed"] == 5
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "Shape", "Gather", "Slice"}
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
