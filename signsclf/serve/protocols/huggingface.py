"""Hugging Face's contract for image classification: POST /hf, /hf/MODEL, and / as its Inference Endpoints do.

The body is an image, or ``{"inputs": base64, "parameters": {"top_k", "function_to_apply"}}``; the answer a list of
``{"label", "score"}``. What has no place in it is in headers: the model's digest, its threshold, accepted or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signsclf.inference.classifier import Prediction
from signsclf.serve.answers import Refused, json_response, timing_headers
from signsclf.serve.bodies import base64_bytes, json_object, parameters_of, read_body
from signsclf.serve.models import ServedModel
from signsclf.serve.protocols.predict import MAX_TOP_K
from signsclf.serve.service import Service

_FUNCTIONS = ("softmax", "sigmoid", "none")


def routes(service: Service) -> list[Route]:
    """Make the routes of this protocol."""

    async def classify(request: Request) -> Response:
        deadline = service.deadline(request)
        body = await read_body(request, service.settings.max_bytes)
        image, top_k, function = parse(body, request.headers.get("content-type", ""))
        model = service.models.get(request.path_params.get("model"))
        arrays, timings = await service.run(
            [image], model=model, outputs=("logits", "probabilities"), deadline=deadline, request=request
        )
        (prediction,) = model.classifier.predictions([""], arrays["probabilities"], top_k=1)
        headers = {**timing_headers(timings), **verdict_headers(model, prediction)}
        found = scores(arrays["logits"][0], arrays["probabilities"][0], function)
        return json_response(ranked(found, model.classifier.labels, top_k), headers=headers)

    return [Route(path, classify, methods=["POST"]) for path in ("/hf", "/hf/{model}", "/")]


def parse(body: bytes, content_type: str) -> tuple[bytes, int, str]:
    """Parse a body: the image, top_k and function_to_apply.

    Raises:
        Refused: 400, it does not follow the contract.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        return body, 5, "softmax"
    value = json_object(body)
    parameters = parameters_of(value)
    top_k, function = parameters.get("top_k"), parameters.get("function_to_apply")
    if top_k is not None and (type(top_k) is not int or not 1 <= top_k <= MAX_TOP_K):
        raise Refused(400, f"top_k should be a number from 1 to {MAX_TOP_K}")
    if function not in (None, *_FUNCTIONS):
        raise Refused(400, f"function_to_apply should be one of {', '.join(_FUNCTIONS)}")
    return base64_bytes(value.get("inputs"), "inputs"), top_k or 5, function or "softmax"


def scores(logits: np.ndarray, probabilities: np.ndarray, function: str) -> np.ndarray:
    """Score the classes of an image, (classes,), by the function that was asked for."""
    if function == "softmax":
        return probabilities
    values = logits.astype(np.float64)
    # By tanh, which cannot overflow.
    return values if function == "none" else 0.5 + 0.5 * np.tanh(values / 2)


def ranked(values: np.ndarray, labels: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """List the classes with the highest scores, the highest first."""
    order = np.argsort(-values, kind="stable")[:top_k].tolist()
    return [{"label": labels[i], "score": float(values[i])} for i in order]


def verdict_headers(model: ServedModel, prediction: Prediction) -> dict[str, str]:
    """Write what the list of scores cannot say."""
    found = {"X-Model-Digest": model.digest}
    if model.threshold is not None:
        found |= {"X-Threshold": repr(model.threshold), "X-Accepted": str(prediction.accepted).lower()}
    return found
