"""Networks as ONNX graphs: captured once a process, for capturing takes seconds and the weights are no part of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch
from onnxscript import optimizer
from torch import nn

_OPSET = 18
# ONNX Runtime reads it since 1.14, of 2023; opset 18 needs no newer one.
_IR_VERSION = 8
_LARGEST_BATCH = 65_536
# Earlier ones print to standard output, which may be the caller's JSON. ONNX Runtime optimizes what it loads anyway.
_SILENT = tuple(map(int, onnxscript.__version__.split(".")[:2])) >= (0, 7)
_captured: dict[Hashable, onnx.ModelProto] = {}
"""Graphs by what decides them, with a zero in place of each weight."""


def graph(module: nn.Module, size: int, outputs: Sequence[str]) -> ir.Model:
    """Give the optimized graph of a network with its weights.

    Args:
        module: in eval mode on the CPU, uint8 images (N, size, size, 3) in.
        size: side of the images in pixels.
        outputs: names of what it returns.

    Raises:
        Exception: of any type, torch cannot capture it.
    """
    state = {name: tensor.detach().contiguous().numpy() for name, tensor in module.state_dict().items()}
    # The module's text has the settings that show in no shape.
    key = (size, tuple(outputs), str(module), *((name, array.shape, array.dtype.str) for name, array in state.items()))
    if key not in _captured:
        model = _capture(module, size, outputs)
        if not model.graph.initializers.keys() <= state.keys():
            # Some of it was computed from weights, so it is this network's alone.
            return _finished(model)
        for value in model.graph.initializers.values():
            value.const_value = ir.tensor(np.zeros((), state[value.name].dtype))
        _captured[key] = ir.to_proto(model)
    model = ir.from_proto(_captured[key])
    for name, value in model.graph.initializers.items():
        value.const_value = ir.tensor(state[name], name=name)
        value.shape = value.const_value.shape
    return _finished(model)


def _capture(module: nn.Module, size: int, outputs: Sequence[str]) -> ir.Model:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
                input_names=["image"],
                output_names=outputs,
                dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)}},
                opset_version=_OPSET,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    return program.model


def _finished(model: ir.Model) -> ir.Model:
    """Optimize a graph as torch's exporter does; with its weights in it, for some become part of others."""
    if _SILENT:
        optimizer.optimize_ir(model)
    # The exporter leaves in each node the stack that it came from: paths of this machine.
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    model.ir_version = _IR_VERSION
    return model
