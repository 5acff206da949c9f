"""A torch.export archive from a stranger: nothing in it runs on a board."""

import importlib.util
import io
import json
import pickle
import zipfile

import pytest
from support import convnet

from agent.errors import Refused
from agent.wire import FailureKind, RuntimeOptions

torch_missing = importlib.util.find_spec("torch") is None
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(torch_missing, reason="torch is not installed (the extra 'models')"),
]

GRAPH = "model/models/model.json"
WEIGHTS = "model/data/weights/model_weights_config.json"
CONSTANTS = "model/data/constants/model_constants_config.json"
SAMPLES = "model/data/sample_inputs/model.pt"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good archive's files by name."""
    path = convnet.write_pt2(tmp_path_factory.mktemp("good") / "model.pt2")
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def archive(path, files):
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return path


def load(path):
    from agent.runtimes import runtime  # noqa: PLC0415 - only where torch is there

    return runtime("torch").load(path, "pt2", RuntimeOptions(intra_op_num_threads=1))


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def edited(data, change):
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()


def nodes(document):
    return document["graph_module"]["graph"]["nodes"]


def operator(target):
    return lambda document: nodes(document)[0].update(target=target)


def test_the_same_archive_rewritten_is_loaded(good, tmp_path):
    """What the attacks below are made of is itself accepted: it is they that are refused."""
    model = load(archive(tmp_path / "m", good))
    assert model.inputs[0].name == "images"


GRAPH_ATTACKS = {
    "a function of torch": operator("torch.serialization.os.system"),
    "a function of operator": operator("_operator.methodcaller"),
    "an extension": operator("#evil:op"),
    "an operator that opens files": operator("torch.ops.aten.from_file.default"),
    "an operator of another library": operator("torch.ops.evil.run.default"),
    "code as a name": lambda d: nodes(d)[0].update(name="x=__import__('os').abort()#"),
    "code as an output": lambda d: nodes(d)[0]["outputs"][0]["as_tensor"].update(name="a;b"),
    "a dotted name": lambda d: nodes(d)[0].update(name="torch.load"),
    "metadata": lambda d: nodes(d)[0].update(metadata={"source_fn_stack": "a,torch.os.system"}),
    "a guard": lambda d: d.update(guards_code=["__import__('os').abort()"]),
    "a symbolic shape": lambda d: d["graph_module"]["graph"]["tensor_values"]["images"].update(
        sizes=[{"as_expr": {"expr_str": "__import__('os').abort()", "hint": None}}]
    ),
    "a range": lambda d: d.update(range_constraints={"s0": {"min_val": 0, "max_val": 1}}),
    "a subgraph": lambda d: nodes(d)[0]["inputs"][0].update(arg={"as_graph": {"name": "g"}}),
    "an object": lambda d: nodes(d)[0]["inputs"][0].update(arg={"as_custom_obj": {"name": "o"}}),
    "text with code": lambda d: nodes(d)[0]["inputs"][0].update(arg={"as_string": "f'{x}'"}),
    "a nesting of a class": lambda d: d["graph_module"]["module_call_graph"][0]["signature"].update(
        out_spec='[1, {"type": "evil.Class", "context": "null", "children_spec": []}]'
    ),
}


@pytest.mark.parametrize("attack", GRAPH_ATTACKS.values(), ids=list(GRAPH_ATTACKS))
def test_a_graph_with_more_than_tensors_and_operators_is_refused(good, tmp_path, attack):
    """Names, operators and arguments that torch would look up or evaluate are refused before it."""
    files = good | {GRAPH: edited(good[GRAPH], attack)}
    with pytest.raises(Refused, match="this archive is not loaded") as caught:
        load(archive(tmp_path / "m", files))
    assert caught.value.failure.kind is FailureKind.MODEL_LOAD


def test_a_pickle_for_sample_inputs_is_not_unpickled(good, tmp_path):
    """torch.export.load would unpickle the example input; the archive is refused instead."""
    mark = tmp_path / "mark"
    files = good | {SAMPLES: pickle.dumps(Evil(mark))}
    with pytest.raises(Refused, match="unpickle"):
        load(archive(tmp_path / "m", files))
    assert not mark.exists()


def test_a_pickled_weight_is_not_unpickled(good, tmp_path):
    """A weight marked as a pickle is refused; its pickle never runs."""
    import torch  # noqa: PLC0415 - only where it is there

    mark = tmp_path / "mark"
    buffer = io.BytesIO()
    torch.save(Evil(mark), buffer)

    def as_pickle(document):
        for entry in document["config"].values():
            entry["use_pickle"] = True

    files = good | {WEIGHTS: edited(good[WEIGHTS], as_pickle)}
    files["model/data/weights/weight_0"] = buffer.getvalue()
    with pytest.raises(Refused, match="pickled"):
        load(archive(tmp_path / "m", files))
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "model/data/aotinductor/model/evil.so",
        "model/data/constants/opaque_obj_0",
        "model/data/constants/custom_obj_0",
        "model/data/weights/model.pt",
        "model/extra/anything",
        "version",
        "model/../../evil",
    ],
)
def test_files_of_other_kinds_are_refused(good, tmp_path, name):
    """Native code, pickled objects, the formats of older versions: none is let in."""
    with pytest.raises(Refused, match="this archive is not loaded"):
        load(archive(tmp_path / "m", good | {name: b"\x80\x04."}))


def test_an_opaque_constant_is_refused_by_its_table(good, tmp_path):
    """A constant that is no tensor's file is refused, whatever its file is called."""
    entry = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }
    table = json.dumps({"config": {"x": entry}}).encode()
    with pytest.raises(Refused, match="no tensor's file"):
        load(archive(tmp_path / "m", good | {CONSTANTS: table}))


def test_a_file_that_is_there_twice_is_refused(good, tmp_path):
    """Two files of one name could be read differently by two readers."""
    path = archive(tmp_path / "m", good)
    with zipfile.ZipFile(path, "a") as zipped, pytest.warns(UserWarning, match="Duplicate"):
        zipped.writestr(GRAPH, good[GRAPH])
    with pytest.raises(Refused, match="each once"):
        load(path)


def test_an_archive_as_torch_writes_it_by_itself_is_refused(tmp_path):
    """An archive with an example input, as torch.export.save alone writes it, is not let in."""
    import torch  # noqa: PLC0415 - only where it is there

    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(convnet.torch_net(), (torch.zeros(1, 3, 8, 8),)), path)
    with pytest.raises(Refused, match="unpickle"):
        load(path)
