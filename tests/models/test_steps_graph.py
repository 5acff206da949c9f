"""What the decode is, in what order nodes are, what counts as fused; and instruction sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support import nets

from models.steps.graph import decode_nodes, fused, name_nodes, put_in_order, unfused_qdq
from models.steps.isa import family, host_isa, nchwc_block
from models.steps.kinds import INT8_PTQ, ORT_FORMAT, Int8Params

DECODE = {"Reshape", "Split", "Mul", "Sigmoid", "Concat"}


def graph(path: Path) -> Any:
    return onnx.load(path).graph


def chain(*ops: tuple[str, str, bool]) -> Any:
    """A graph of (operator, name, has a weight) one after the other."""
    nodes, weights = [], []
    for index, (op, name, weighted) in enumerate(ops):
        inputs = [f"t{index}"]
        if weighted:
            weights.append(numpy_helper.from_array(np.ones(1, np.float32), f"w{index}"))
            inputs.append(f"w{index}")
        nodes.append(helper.make_node(op, inputs, [f"t{index + 1}"], name=name))
    return helper.make_graph(nodes, "g", [], [], weights)


@pytest.mark.parametrize("prefix", ["/decode/", "/model.22/"])
def test_the_decode_is_what_no_learned_layer_follows(tmp_path: Path, prefix: str) -> None:
    """The tail after the last convolution is the decode, whatever its nodes are called."""
    found = decode_nodes(graph(nets.detector(tmp_path / "net.onnx", decode=prefix)))
    assert found == {prefix + op for op in DECODE}


def test_activations_before_a_convolution_are_not_decode(tmp_path: Path) -> None:
    """The Sigmoid of a SiLU is quantized though the decode's Sigmoid is not."""
    found = decode_nodes(graph(nets.detector(tmp_path / "net.onnx")))
    assert "/decode/Sigmoid" in found
    assert not {"/body/Sigmoid", "/body/Mul", "/head/Conv"} & found


def test_named_decodes_are_decode_even_with_a_convolution() -> None:
    """The fixed convolution of a DFL belongs to the decode, as does what only it follows."""
    found = decode_nodes(
        chain(
            ("Conv", "/head/Conv", True),
            ("Reshape", "/head/Reshape", False),
            ("Softmax", "/model.22/dfl/Softmax", False),
            ("Conv", "/model.22/dfl/conv/Conv", True),
            ("Concat", "/head/Concat", False),
        )
    )
    assert found == {
        "/head/Reshape",
        "/model.22/dfl/Softmax",
        "/model.22/dfl/conv/Conv",
        "/head/Concat",
    }


def test_products_of_activations_are_not_learned() -> None:
    """A MatMul of two activations after the head does not make the tail learned."""
    found = decode_nodes(chain(("Gemm", "fc", True), ("MatMul", "attend", False)))
    assert found == {"attend"}


def test_what_a_subgraph_reads_leads_on() -> None:
    """A node that only a subgraph reads is not decode when a layer follows the subgraph."""
    inner = helper.make_graph([helper.make_node("Relu", ["a"], ["b"], name="in")], "inner", [], [])
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    nodes = [
        helper.make_node("Abs", ["x"], ["a"], name="captured"),
        helper.make_node("If", ["c"], ["d"], name="if", then_branch=inner, else_branch=inner),
        helper.make_node("Conv", ["d", "w"], ["y"], name="conv"),
    ]
    assert decode_nodes(helper.make_graph(nodes, "g", [], [], [weight])) == set()


def test_nodes_get_names_of_their_own() -> None:
    """Unnamed and doubly named nodes can be told apart afterwards."""
    net = chain(("Conv", "", True), ("Relu", "", False), ("Conv", "c", True), ("Conv", "c", True))
    name_nodes(net)
    assert [node.name for node in net.node] == ["Conv#0", "Relu#1", "c", "c#3"]


def test_nodes_are_put_in_order() -> None:
    """A shuffled graph is sorted by what reads what, a sorted one is left, a cycle is refused."""
    net = chain(("Conv", "a", True), ("Relu", "b", False), ("Conv", "c", True))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in net.node]
    put_in_order(net)
    assert [node.name for node in net.node] == ["a", "b", "c"]
    del net.node[:]
    net.node.extend([nodes[2], nodes[0], nodes[1]])
    put_in_order(net)
    assert [node.name for node in net.node] == ["a", "b", "c"]
    net.node[0].input[0] = "t3"
    with pytest.raises(ValueError, match="cycle through 'a'"):
        put_in_order(net)


def test_fused_kernels_are_told_from_the_rest() -> None:
    """Quantized kernels are counted by operator, QuantizeLinear pairs as unfused."""
    counts = {"QLinearConv": 63, "QGemm": 1, "Conv": 1, "QuantizeLinear": 2, "DequantizeLinear": 5}
    assert fused(counts) == {"QLinearConv": 63, "QGemm": 1}
    assert unfused_qdq(counts) == 7
    assert unfused_qdq({}) == 0


@pytest.mark.parametrize(
    ("machine", "flags", "isa", "block"),
    [
        ("x86_64", "flags\t\t: fpu sse avx2 avx512f avx512_vnni", "x86_64-vnni", 16),
        ("x86_64", "flags\t\t: fpu sse avx2 avx_vnni", "x86_64-vnni", 8),
        ("x86_64", "flags\t\t: fpu sse avx2", "x86_64", 8),
        ("aarch64", "Features\t: fp asimd crc32", "aarch64", 8),
        ("aarch64", "Features\t: fp asimd asimddp", "aarch64-dotprod", 8),
        ("riscv64", "", "other", 8),
    ],
)
def test_the_hosts_instruction_set(
    tmp_path: Path, machine: str, flags: str, isa: str, block: int
) -> None:
    """The host is named as a board with the same /proc/cpuinfo would be."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{flags}\nbugs\t\t: none\n")
    assert host_isa(machine, cpuinfo) == isa
    assert nchwc_block(cpuinfo) == block


def test_an_unreadable_cpuinfo_promises_nothing(tmp_path: Path) -> None:
    """Without /proc/cpuinfo a host has the plain instruction set of its family."""
    assert host_isa("x86_64", tmp_path / "none") == "x86_64"


@pytest.mark.parametrize(
    ("isa", "activation", "target"),
    [
        ("aarch64", "s8", "arm"),
        ("aarch64-dotprod", "s8", "arm"),
        ("x86_64", "u8", "amd64"),
        ("x86_64-vnni", "u8", "amd64"),
        ("other", "u8", "amd64"),
    ],
)
def test_steps_choose_for_the_target(isa: str, activation: str, target: str) -> None:
    """Activations are s8 for Arm and u8 elsewhere; both Arm kinds share every choice."""
    assert INT8_PTQ.choices(Int8Params(), isa) == {"activation": activation}
    assert INT8_PTQ.choices(Int8Params(activation="u8"), isa) == {"activation": "u8"}
    assert ORT_FORMAT.choices(None, isa)["target"] == target
    assert family(isa) in isa


def test_a_layout_for_this_cpu_is_only_for_cpus_like_it() -> None:
    """Blocked convolutions are saved for the host's own instruction set and no other."""
    others = {"x86_64", "x86_64-vnni", "aarch64", "aarch64-dotprod"} - {host_isa()}
    assert {ORT_FORMAT.choices(None, isa)["layout"] for isa in others} == {"nchw"}
