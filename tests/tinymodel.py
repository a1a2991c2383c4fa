"""A model folder made by hand, small enough for a test: its logits are linear in the mean colour."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from signsclf.model.folder import CARD, ONNX, WEIGHTS, Config, write_config, write_sums

CLASSES = ("red", "green", "blue")
WEIGHT = np.array([[9, -3, -3], [-3, 9, -3], [-3, -3, 9]], dtype=np.float32)


def config(**changes: object) -> Config:
    values: dict = {
        "architecture": "tiny",
        "classes": CLASSES,
        "input_size": (6, 8),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "recipe": {"epochs": 1, "sizes": [6, 8]},
        "reject_threshold": 0.9,
        "figures": {"valid": {"n": 12, "accuracy": 0.75}},
        "versions": {"signsclf": "0.1.0"},
        "readers": ("onnxruntime", "signsclf"),
        "classifier": "fc.weight",
    }
    return Config(**{**values, **changes})


def network(size: tuple[int, int] = (6, 8), classes: tuple[str, ...] = CLASSES, features: bool = True):
    """uint8 NHWC -> scaled NCHW (the feature map) -> mean over places -> linear layer."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["features"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["features", "places"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weight"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(classes)])]
    if features:
        outputs.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3, *size]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *size, 3])],
        outputs,
        [
            numpy_helper.from_array(np.float32(255), "scale"),
            numpy_helper.from_array(np.array([2, 3]), "places"),
            numpy_helper.from_array(np.ascontiguousarray(WEIGHT[: len(classes)].T), "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"labels": json.dumps(list(classes))})
    return model


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    names = {np.dtype("float32"): "F32", np.dtype("float16"): "F16", np.dtype("int64"): "I64"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        end = len(data) + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": tensor.shape, "data_offsets": [len(data), end]}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_folder(folder: Path, *, features: bool = True, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    size, classes = changes.get("input_size", (6, 8)), changes.get("classes", CLASSES)
    onnx.save(network(size, classes, features), folder / ONNX)
    write_safetensors(folder / WEIGHTS, {"fc.weight": WEIGHT})
    (folder / CARD).write_text("# A tiny model\n", encoding="utf-8")
    write_config(folder, config(**changes))
    write_sums(folder)
    return folder
