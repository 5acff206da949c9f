"""Models that try to read other files or to load code, where they are run: on the board."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.workerrig import Rig

from agent.wire import FailureKind

SECRET = b"what no model may see"


def external(location: str) -> bytes:
    """A model whose one weight is said to lie in another file, and which answers with it."""
    weight = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[len(SECRET)])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(SECRET)))):
        weight.external_data.add(key=key, value=value)
    node = helper.make_node("Identity", ["w"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.UINT8, [len(SECRET)])
    return _bytes(helper.make_graph([node], "g", [], [out], [weight]))


def custom(domain: str) -> bytes:
    """A model of one operator that only a library of its author's has."""
    node = helper.make_node("Evil", ["x"], ["y"], domain=domain, library="./evil.so")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    return _bytes(helper.make_graph([node], "g", ends[:1], ends[1:]), domain)


def _bytes(graph: onnx.GraphProto, *domains: str) -> bytes:
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(name, 1) for name in domains)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    return data


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    (tmp_path / "secret").write_bytes(SECRET)
    made = Rig(tmp_path)
    (made.artifacts / "link").symlink_to(tmp_path / "secret")
    return made


@pytest.mark.parametrize("location", ["../secret", "ABSOLUTE", "link", "./../artifacts/../secret"])
def test_external_data_outside_the_cache(rig: Rig, tmp_path: Path, location: str) -> None:
    """A model cannot have the board read a file elsewhere: by `..`, absolutely or by a link."""
    place = str(tmp_path / "secret") if location == "ABSOLUTE" else location
    rig.write(rig.add(external(place)))
    failure = rig.failure_here()
    assert failure.kind is FailureKind.MODEL_LOAD
    assert SECRET.decode() not in failure.message
    assert not (rig.trial / "samples.bin").exists()


@pytest.mark.parametrize("domain", ["evil", "com.microsoft", "ai.onnx.contrib"])
def test_custom_operators(rig: Rig, domain: str) -> None:
    """An operator that the runtime lacks is refused; no model names a library to be loaded."""
    before = _libraries()
    rig.write(rig.add(custom(domain)))
    failure = rig.failure_here()
    assert failure.kind is FailureKind.MODEL_LOAD
    assert "Evil" in failure.message
    assert not {name for name in _libraries() - before if "evil" in name}


def _libraries() -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if ".so" in line}
