from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_imports import MODULES
from tinymodel import network, write_folder

from signsclf.choices import Provider
from signsclf.cli.options import provider_name
from signsclf.errors import DeviceError, ModelError, SignsclfError
from signsclf.inference import runtime
from signsclf.inference.classifier import Classifier

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def fails(pattern: str, error: type[SignsclfError] = ModelError):
    """An error of one line that matches."""
    return pytest.raises(error, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "m")


# -- telemetry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_onnxruntime_is_imported_behind_its_telemetrys_switch(name: str):
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    lines = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found = [line for line in lines if "onnxruntime" in line]
    if name == "inference.runtime":
        return
    assert all("onnxruntime." in line for line in found), "signsclf.inference.runtime is where it is imported"
    assert not found or "from signsclf.inference import runtime" in lines


LISTENING = """
import os, socket, sys

def refuse(*arguments, **_):
    sys.exit(f"a host is looked up or called: {arguments}")

for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse)
socket.socket.connect = socket.socket.connect_ex = refuse
import signsclf
from PIL import Image
print(signsclf.load(sys.argv[1], threads=1).predict(Image.new("RGB", (9, 9), "red")).label)
print(os.environ.get("ORT_DISABLE_TELEMETRY"))
"""


def test_a_prediction_writes_nothing_to_the_home_folder_and_calls_no_host(folder: Path, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environ = {**kept, "HOME": str(home), "USERPROFILE": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "LOCALAPPDATA"):
        environ.pop(name, None)
    for more, said in ({}, "1"), ({"ORT_DISABLE_TELEMETRY": "true"}, "true"):
        ran = subprocess.run(
            [sys.executable, "-c", LISTENING, str(folder)],
            env={**environ, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        assert list(home.rglob("*")) == []
        assert ran.stdout.split() == ["red", said]
        assert ran.stderr == ""


# -- CUDA ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch):
    """An ONNX Runtime with CUDA, whose sessions do what the test says; without, the CPU's are the real ones."""
    real = runtime.onnxruntime.InferenceSession

    def offer(what: str | Exception) -> None:
        def session(model: object, options: object, providers: list[str], **others: object):
            if CUDA not in providers:
                return real(model, options, providers=providers, **others)
            if isinstance(what, Exception):
                raise what
            opened = real(model, options, providers=[CPU])
            names = ("run", "get_inputs", "get_outputs", "get_modelmeta")
            return SimpleNamespace(
                get_providers=lambda: [CUDA, CPU] if what == "works" else [CPU],
                **{name: getattr(opened, name) for name in names},
            )

        monkeypatch.setattr(runtime.onnxruntime, "InferenceSession", session)
        monkeypatch.setattr(runtime.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])

    return offer


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Makes these distributions, and no others, look installed."""

    def install(*names: str) -> None:
        site = tmp_path / f"site of {len(names)}"
        (site / "onnxruntime").mkdir(parents=True)
        for name in names:
            (site / f"{name.replace('-', '_')}-1.30.0.dist-info").mkdir()
        monkeypatch.setattr(runtime.onnxruntime, "__file__", str(site / "onnxruntime" / "__init__.py"))

    return install


def test_the_installed_packages_are_those_that_installers_tell_of():
    found = set()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.add(importlib.metadata.distribution(name).metadata["Name"])
    assert runtime._installed() == found != set()


def told(capsys: pytest.CaptureFixture[str], device: Provider) -> tuple[str, list[str]]:
    capsys.readouterr()
    name = provider_name(device)
    out, err = capsys.readouterr()
    assert out == ""
    return name, err.splitlines()


def test_cuda_that_works_is_used(folder: Path, offered, capsys: pytest.CaptureFixture[str]):
    offered("works")
    assert Classifier(folder, device="cuda").predict(np.full((5, 5, 3), (255, 0, 0), np.uint8)).label == "red"
    assert told(capsys, Provider.AUTO) == told(capsys, Provider.CUDA) == ("cuda", [])


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("falls back", "cannot load its CUDA libraries.*cuDNN"),
        (RuntimeError("CUDA failure 35: driver too old\nmore"), "CUDA failure 35: driver too old"),
    ],
)
def test_cuda_that_fails_is_an_error_from_python_and_one_line_on_the_command_line(
    folder: Path, offered, packages, capsys: pytest.CaptureFixture[str], what: object, why: str
):
    offered(what)
    packages("onnxruntime-gpu")
    with fails(f"cuda: .*{why}", DeviceError):
        Classifier(folder, device="cuda")
    for device in (Provider.AUTO, Provider.CUDA):
        name, lines = told(capsys, device)
        assert name == "cpu"
        assert len(lines) == 1
        assert "running on the CPU" in lines[0]
    assert told(capsys, Provider.CPU) == ("cpu", [])
    (folder / "model.onnx").write_bytes(b"rubbish")
    with fails("cannot be opened"):
        runtime.open_session(folder / "model.onnx", device="cuda")


def test_two_packages_side_by_side_are_named_with_the_remedy(
    folder: Path, packages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(runtime.onnxruntime, "get_available_providers", lambda: [CPU])
    packages("onnxruntime", "onnxruntime-gpu")
    with fails("both installed.*pip uninstall -y onnxruntime onnxruntime-gpu", DeviceError):
        Classifier(folder, device="cuda")
    for device in (Provider.AUTO, Provider.CUDA):
        name, [line] = told(capsys, device)
        assert name == "cpu"
        assert "both installed" in line
    packages("onnxruntime")
    with fails(r'no CUDA; install the extra gpu with: pip install "signsclf\[gpu\]"', DeviceError):
        Classifier(folder, device="cuda")
    assert told(capsys, Provider.AUTO) == ("cpu", [])
    assert len(told(capsys, Provider.CUDA)[1]) == 1


# -- files -----------------------------------------------------------------------------------------------------------


def tensor(name: str) -> TensorProto:
    """One whose values lie in the file "weights"."""
    made = numpy_helper.from_array(np.ones(4, np.float32), name)
    onnx.external_data_helper.set_external_data(made, "weights")
    made.ClearField("raw_data")
    return made


def graph_of(*nodes, initializer=(), sparse_initializer=()):
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph(
        list(nodes), "g", [], [output], list(initializer), sparse_initializer=list(sparse_initializer)
    )


def external_models() -> dict[str, onnx.ModelProto]:
    """Every place in a model at which a tensor can stand."""
    constant = helper.make_node("Constant", [], ["y"], value=tensor("w"))
    branch = helper.make_node("If", ["c"], ["y"], then_branch=graph_of(constant), else_branch=graph_of(constant))
    several = helper.make_node("Own", [], ["y"], domain="own", values=[tensor("w")], graphs=[graph_of(constant)])
    sparse = onnx.SparseTensorProto(values=tensor("w"), indices=tensor("i"), dims=[4])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", [], ["y"], [constant], opsets[:1])
    call = helper.make_node("F", [], ["y"], domain="own")
    identity = helper.make_node("Identity", ["w"], ["y"])
    training = helper.make_model(graph_of(identity), opset_imports=opsets)
    training.training_info.add().algorithm.CopyFrom(graph_of(constant))
    bare = tensor("w")
    bare.ClearField("external_data")
    bare.doc_string = "location"
    graphs = {
        "initializer": graph_of(identity, initializer=[tensor("w")]),
        "location alone": graph_of(identity, initializer=[bare]),
        "constant": graph_of(constant),
        "branch": graph_of(branch),
        "lists": graph_of(several),
        "sparse initializer": graph_of(identity, sparse_initializer=[sparse]),
        "sparse constant": graph_of(helper.make_node("Constant", [], ["y"], sparse_value=sparse)),
    }
    models = {name: helper.make_model(graph, opset_imports=opsets) for name, graph in graphs.items()}
    calling = helper.make_model(graph_of(call), opset_imports=opsets, functions=[function])
    return {**models, "function": calling, "training": training}


@pytest.mark.parametrize(("name", "model"), external_models().items(), ids=external_models().keys())
def test_weights_in_other_files_are_not_read(tmp_path: Path, name: str, model: onnx.ModelProto):
    (tmp_path / "weights").write_bytes(np.ones(4, np.float32).tobytes())
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with fails("keeps weights in other files"):
        runtime.open_session(path)


def test_the_word_for_them_elsewhere_is_no_matter(tmp_path: Path):
    model = network(classes=("location", "b", "c"))
    model.doc_string = model.graph.node[0].name = "location"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert runtime.open_session(path).get_providers() == [CPU]
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with fails("model.onnx: (cannot be opened|keeps weights)"):
            runtime.open_session(path)


def test_too_large_and_missing_ones_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "MAX_BYTES", 1000)
    (tmp_path / "model.onnx").write_bytes(bytes(1001))
    with fails("1,001 bytes, where an ONNX file has at most 1,000"):
        runtime.open_session(tmp_path / "model.onnx")
    for name in ("none.onnx", "."):
        with fails("does not exist"):
            runtime.open_session(tmp_path / name)
