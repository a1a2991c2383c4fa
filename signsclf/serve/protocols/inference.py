"""The Open Inference Protocol, version 2, over HTTP: /v2/…, as KServe and Triton speak it.

With Triton's extensions for binary tensors and for classification. A request has one input: ``image``, pixels at the
model's size, or ``file``, encoded images. Version of a model: the beginning of its digest.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import signsclf
from signsclf.serve.answers import Refused, json_response, timing_headers
from signsclf.serve.bodies import MAX_JSON_VALUES, base64_bytes, json_object, parameters_of, read_body
from signsclf.serve.engine import now
from signsclf.serve.models import ServedModel
from signsclf.serve.service import Service
from signsclf.text import short

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Bytes of the JSON, in a body where binary tensors follow it."""

_VERDICTS = ("label", "accepted")
_RANKED = ("logits", "probabilities")
_DATATYPES = {"float32": "FP32", "float64": "FP64", "bool": "BOOL", "object": "BYTES"}
_VERSION_LENGTH = 12
_MAX_ID = 1000


@dataclass(frozen=True, kw_only=True)
class Requested:
    """An output that a request asks for.

    Attributes:
        name: of the output.
        is_binary: whether its values follow the JSON.
        n_classes: of the classification extension; 0 asks for the values themselves.
    """

    name: str
    is_binary: bool = False
    n_classes: int = 0


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """What a request asks for.

    Attributes:
        images: encoded, or uint8 (N, …) pixels.
        outputs: in their order; none asks for all but the features.
        is_binary: whether outputs that are not named are binary.
        id: to be given back.
        seconds: that it may take at most; None: as many as the server allows.
    """

    images: np.ndarray | list[bytes]
    outputs: tuple[Requested, ...]
    is_binary: bool
    id: str | None
    seconds: float | None


def routes(service: Service) -> list[Route]:
    """Make the routes of this protocol."""

    def served(request: Request) -> ServedModel:
        model = service.models.get(request.path_params["model"])
        version = request.path_params.get("version")
        if version not in (None, version_of(model)):
            raise Refused(404, f"{model.name} has no version {short(version)!r}; it has {version_of(model)}")
        return model

    async def server_metadata(_: Request) -> Response:
        extensions = ["binary_tensor_data", "classification"]
        return json_response({"name": "signsclf", "version": signsclf.__version__, "extensions": extensions})

    async def live(_: Request) -> Response:
        return json_response({"live": True})

    async def ready(_: Request) -> Response:
        return json_response({"ready": service.ready}, 200 if service.ready else 503)

    async def model_metadata(request: Request) -> Response:
        return json_response(metadata(served(request)))

    async def model_ready(request: Request) -> Response:
        value = {"name": served(request).name, "ready": service.ready}
        return json_response(value, 200 if service.ready else 503)

    async def infer(request: Request) -> Response:
        model, deadline = served(request), service.deadline(request)
        body = await read_body(request, service.settings.max_bytes)
        asked = parse(body, request.headers.get(HEADER_LENGTH), service.settings.max_images)
        if asked.seconds is not None:
            deadline = min(deadline, now() + asked.seconds)
        wanted = outputs_of(model, asked)
        names = {"probabilities" if output.name in _VERDICTS else output.name for output in wanted}
        arrays, timings = await service.run(
            asked.images, model=model, outputs=names, deadline=deadline, request=request
        )
        head = {"model_name": model.name, "model_version": version_of(model), "parameters": told_of(model)}
        if asked.id is not None:
            head["id"] = asked.id
        content, length = encode(head, [(output, tensor_of(output, arrays, model)) for output in wanted])
        if length is None:
            return Response(content, 200, timing_headers(timings), "application/json")
        headers = {**timing_headers(timings), HEADER_LENGTH: str(length)}
        return Response(content, 200, headers, "application/octet-stream")

    found = [
        Route("/v2", server_metadata, methods=["GET"]),
        Route("/v2/health/live", live, methods=["GET"]),
        Route("/v2/health/ready", ready, methods=["GET"]),
    ]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found += [
            Route(path, model_metadata, methods=["GET"]),
            Route(f"{path}/ready", model_ready, methods=["GET"]),
            Route(f"{path}/infer", infer, methods=["POST"]),
        ]
    return found


def version_of(model: ServedModel) -> str:
    """Return a model's version: other files have another."""
    return model.digest.removeprefix("sha256:")[:_VERSION_LENGTH]


def told_of(model: ServedModel) -> dict[str, Any]:
    """Return what every answer tells of the model."""
    threshold = {} if model.threshold is None else {"threshold": model.threshold}
    return {"digest": model.digest, **threshold}


def metadata(model: ServedModel) -> dict[str, Any]:
    """Describe a model's inputs and outputs."""
    n_classes = len(model.classifier.labels)
    outputs = [
        {"name": "logits", "datatype": "FP32", "shape": [-1, n_classes]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, n_classes]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    if model.threshold is not None:
        outputs.append({"name": "accepted", "datatype": "BOOL", "shape": [-1]})
    if model.classifier.has_features:
        outputs.append({"name": "features", "datatype": "FP32", "shape": [-1, -1, -1, -1]})
    return {
        "name": model.name,
        "versions": [version_of(model)],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [-1, *model.classifier.size, 3]},
            {"name": "file", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": outputs,
        "parameters": told_of(model),
    }


def outputs_of(model: ServedModel, asked: InferRequest) -> list[Requested]:
    """List the outputs of a request: those that it names, else all but the features, which are large.

    Raises:
        Refused: 400, the model has no such output.
    """
    known = [output["name"] for output in metadata(model)["outputs"]]
    for output in asked.outputs:
        if output.name not in known:
            raise Refused(400, f"{model.name} has no output {short(output.name)!r}; it has {', '.join(known)}")
    default = [Requested(name=name, is_binary=asked.is_binary) for name in known if name != "features"]
    return list(asked.outputs) or default


def parse(body: bytes, header_length: str | None, most: int) -> InferRequest:
    """Parse the body of a request.

    Args:
        header_length: the header `HEADER_LENGTH`; None where all of the body is JSON.
        most: encoded images that there may be.

    Raises:
        Refused: 400, it does not follow the protocol; 413, it has too many values in JSON.
    """
    text, binary = body, memoryview(b"")
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 12):
            raise Refused(400, f"{HEADER_LENGTH} is {short(header_length)!r}, where it should be a number of bytes")
        length = int(header_length)
        if length > len(body):
            raise Refused(400, f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes")
        text, binary = body[:length], memoryview(body)[length:]
    value = json_object(text)
    request_id, parameters = value.get("id"), parameters_of(value)
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= _MAX_ID):
        raise Refused(400, f"id should be text of at most {_MAX_ID} characters")
    inputs = _objects(value, "inputs")
    if len(inputs) != 1:
        raise Refused(400, f"{len(inputs)} inputs, where there should be one: image (UINT8) or file (BYTES)")
    is_binary = _flag(parameters, "binary_data_output", False)
    outputs = tuple(_requested(output, is_binary) for output in _objects(value, "outputs"))
    if len({output.name for output in outputs}) < len(outputs):
        raise Refused(400, "an output is asked for twice")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 1):
        raise Refused(400, "the parameter timeout should be a number of microseconds from 1 on")
    return InferRequest(
        images=_images(inputs[0], binary, most),
        outputs=outputs,
        is_binary=is_binary,
        id=request_id,
        seconds=None if timeout is None else timeout / 1e6,
    )


def tensor_of(output: Requested, arrays: Mapping[str, np.ndarray], model: ServedModel) -> np.ndarray:
    """Make an output of what the network gave; texts are arrays of objects."""
    name, classifier = output.name, model.classifier
    if output.n_classes:
        return classification(arrays[name], classifier.labels, output.n_classes)
    if name not in _VERDICTS:
        return arrays[name]
    rows = arrays["probabilities"]
    predictions = classifier.predictions([""] * len(rows), rows, top_k=1)
    return np.array([getattr(one, name) for one in predictions], dtype=bool if name == "accepted" else object)


def classification(values: np.ndarray, labels: Sequence[str], n_classes: int) -> np.ndarray:
    """Write the largest values of each row as Triton does, "value:index:label": objects (N, n_classes)."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :n_classes]
    rows = [[f"{row[i]:f}:{i}:{labels[i]}" for i in best] for row, best in zip(values, order, strict=True)]
    return np.array(rows, dtype=object)


def encode(head: Mapping[str, Any], tensors: Sequence[tuple[Requested, np.ndarray]]) -> tuple[bytes, int | None]:
    """Write an answer's body, and the length of its JSON where binary tensors follow.

    Raises:
        Refused: 400, there are too many values for JSON.
    """
    outputs, blobs = [], []
    for output, array in tensors:
        found: dict[str, Any] = {"name": output.name, "datatype": _DATATYPES[array.dtype.name], "shape": array.shape}
        if output.is_binary:
            blobs.append(_binary(array))
            found["parameters"] = {"binary_data_size": len(blobs[-1])}
        elif array.size > MAX_JSON_VALUES:
            raise Refused(400, f"{output.name} has {array.size:,} values; ask for it with binary_data, or fewer images")
        else:
            found["data"] = array.ravel().tolist()
        outputs.append(found)
    text = json_response({**head, "outputs": outputs}).body
    return b"".join([bytes(text), *blobs]), len(text) if blobs else None


def _images(tensor: Mapping[str, Any], binary: memoryview, most: int) -> np.ndarray | list[bytes]:
    name, datatype, shape = (tensor.get(key) for key in ("name", "datatype", "shape"))
    if (name, datatype) not in (("image", "UINT8"), ("file", "BYTES")):
        raise Refused(400, "the input should be image, UINT8 pixels, or file, BYTES of encoded images")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise Refused(400, "the input's shape should be a list of whole numbers")
    if len(shape) != 4 if datatype == "UINT8" else len(shape) not in (1, 2):
        raise Refused(400, f"{name} should have the shape {'[N, height, width, 3]' if name == 'image' else '[N]'}")
    parameters = parameters_of(tensor)
    if "shared_memory_region" in parameters:
        raise Refused(400, "shared memory is not supported; send the tensor in the body")
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in tensor):
        raise Refused(400, "the input should have either data or the parameter binary_data_size")
    if size is None and len(binary):
        raise Refused(400, f"{len(binary)} bytes follow the JSON, which no input claims")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise Refused(400, f"binary_data_size should be {len(binary)}, the bytes that follow the JSON")
    n_values = math.prod(shape)
    if datatype == "UINT8":
        values = _pixels(tensor["data"], shape) if size is None else np.frombuffer(binary, np.uint8)
        if values.size != n_values:
            raise Refused(400, f"image has {values.size} values, and its shape {n_values}")
        return values.reshape(shape)
    if n_values > most:
        raise Refused(400, f"{n_values} images, where a request has 1 to {most}")
    files = _texts(tensor["data"]) if size is None else _elements(binary, n_values)
    if len(files) != n_values:
        raise Refused(400, f"file has {len(files)} elements, and its shape {n_values}")
    return files


def _pixels(data: Any, shape: Sequence[int]) -> np.ndarray:
    """Read pixels from JSON: in one flat list, or nested as their shape is."""
    try:
        values = np.array(data if isinstance(data, list) else None)
    except (ValueError, RecursionError):  # lists of unequal lengths, or too deep
        raise Refused(400, "data should be one flat list, or lists nested as the shape is") from None
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        raise Refused(400, "data of an image should be whole numbers from 0 to 255")
    if values.ndim != 1 and values.shape != tuple(shape):
        raise Refused(400, "data should be one flat list, or lists nested as the shape is")
    return values.astype(np.uint8)


def _texts(data: Any) -> list[bytes]:
    """Read encoded images from JSON, where bytes can only be base64."""
    if not isinstance(data, list):
        raise Refused(400, "data should be a list")
    flat = [item for row in data for item in (row if isinstance(row, list) else [row])]
    return [base64_bytes(text, "data of a file") for text in flat]


def _elements(binary: memoryview, n: int) -> list[bytes]:
    """Read a binary tensor of n BYTES, or one more: before each its length, in four bytes, little-endian."""
    found, at = [], 0
    while at < len(binary) and len(found) <= n:
        end = at + 4
        if end <= len(binary):
            end += struct.unpack_from("<I", binary, at)[0]
        if end > len(binary):
            raise Refused(400, "an element of file is longer than the bytes that follow the JSON")
        found.append(bytes(binary[at + 4 : end]))
        at = end
    return found


def _binary(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [text.encode("utf-8", "replace") for text in array.ravel()]
    return b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))


def _requested(value: Mapping[str, Any], is_binary: bool) -> Requested:
    name, parameters = value.get("name"), parameters_of(value)
    if not isinstance(name, str):
        raise Refused(400, "an output should have a name")
    if "shared_memory_region" in parameters:
        raise Refused(400, "shared memory is not supported; ask for the tensor in the body")
    n_classes = parameters.get("classification", 0)
    if type(n_classes) is not int or n_classes < 0:
        raise Refused(400, "the parameter classification should be a number of classes")
    if n_classes and name not in _RANKED:
        raise Refused(400, f"classification is for {' and '.join(_RANKED)}")
    return Requested(name=name, is_binary=_flag(parameters, "binary_data", is_binary), n_classes=n_classes)


def _objects(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Refused(400, f"{key} should be a list of objects")
    return found


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise Refused(400, f"the parameter {name} should be true or false")
    return found
