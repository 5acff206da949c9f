"""One small net in every format that a runtime runs: two convolutions with fixed weights.

`convnet.tflite` was made of `torch_net` by litert-torch 0.10.0:
    litert_torch.convert(torch_net(), sample_kwargs={"images": torch.zeros(1, 3, 8, 8)})
The rest is made when it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE = 8
TFLITE = Path(__file__).with_name("convnet.tflite")

Weights = NDArray[np.float32]


def weights() -> tuple[Weights, Weights, Weights]:
    """Of the first convolution (4, 3, 3, 3), its bias (4,), and of the second (2, 4, 1, 1)."""

    def pattern(count: int, shape: tuple[int, ...]) -> Weights:
        return (((np.arange(count) * 5) % 11 - 4) / 16).astype(np.float32).reshape(shape)

    return pattern(108, (4, 3, 3, 3)), pattern(4, (4,)), pattern(8, (2, 4, 1, 1))


def feed(seed: int = 0) -> dict[str, Weights]:
    """An input of values in 0..1."""
    random = np.random.default_rng(seed)
    return {"images": random.random((1, 3, SIZE, SIZE), dtype=np.float32)}


def write_onnx(path: Path) -> Path:
    """The net as ONNX: images (1, 3, 8, 8) to output (1, 2, 8, 8)."""
    first, bias, second = weights()
    shape = [1, 3, SIZE, SIZE]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Conv", ["r", "v"], ["output"]),
        ],
        "convnet",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 2, SIZE, SIZE])],
        [numpy_helper.from_array(a, n) for a, n in ((first, "w"), (bias, "b"), (second, "v"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def torch_net() -> Any:
    """The net as a torch module with an input called `images`."""
    import torch  # noqa: PLC0415 - most tests run without it

    class ConvNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.second = torch.nn.Conv2d(4, 2, 1, bias=False)

        def forward(self, images: Any) -> Any:
            return self.second(torch.relu(self.first(images)))

    net = ConvNet().eval()
    first, bias, second = (torch.from_numpy(array) for array in weights())
    net.load_state_dict({"first.weight": first, "first.bias": bias, "second.weight": second})
    return net


def write_pt2(path: Path, module: Any = None) -> Path:
    """The net, or another module of one image, as the step `export_pt2` saves it."""
    import torch  # noqa: PLC0415 - most tests run without it

    from models.steps.export_pt2 import save  # noqa: PLC0415 - needs torch

    chosen = torch_net() if module is None else module
    with torch.no_grad():
        save(torch.export.export(chosen, (torch.zeros(1, 3, SIZE, SIZE),)), path)
    return path
