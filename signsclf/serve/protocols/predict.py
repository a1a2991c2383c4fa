"""The server's own protocol: POST /predict and GET /models."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signsclf.serve.answers import Refused, json_response, timing_headers
from signsclf.serve.bodies import read_body
from signsclf.serve.service import Answer, Service

MAX_TOP_K = 1000


def routes(service: Service) -> list[Route]:
    """Make the routes of this protocol."""

    async def predict(request: Request) -> Response:
        deadline = service.deadline(request)
        body = await read_body(request, service.settings.max_bytes)
        return await respond(service, request, body, deadline)

    async def models(_: Request) -> Response:
        found = [
            {
                "name": model.name,
                "labels": list(model.classifier.labels),
                "size": list(model.classifier.size),
                "digest": model.digest,
                "threshold": model.threshold,
                "explains": model.explains,
                "card": model.classifier.card,
            }
            for model in service.models
        ]
        return json_response({"models": found, "default": service.models.default})

    return [Route("/predict", predict, methods=["POST"]), Route("/models", models, methods=["GET"])]


async def respond(service: Service, request: Request, body: bytes, deadline: float) -> Response:
    """Answer a request to POST /predict, or to another path that is to do the same, whose body has been read."""
    query = request.query_params
    top_k, roi = top_k_of(query.get("top_k")), roi_of(query.get("roi"))
    answer = await service.classify(
        body,
        model=query.get("model"),
        top_k=top_k,
        roi=roi,
        explain=flag_of("explain", query.get("explain")),
        deadline=deadline,
        request=request,
    )
    value = {
        "model": answer.model,
        "digest": answer.digest,
        "threshold": answer.threshold,
        "predictions": [prediction_json("", answer)],
    }
    return json_response(value, headers=timing_headers(answer.timings))


def prediction_json(name: str, answer: Answer) -> dict[str, Any]:
    """Write one prediction as JSON values."""
    prediction = answer.prediction
    found: dict[str, Any] = {
        "name": name,
        "label": prediction.label,
        "index": prediction.index,
        "probability": prediction.probability,
        "accepted": prediction.accepted,
        "top_k": [{"label": label, "probability": p} for label, p in prediction.top_k],
        "error": None,
    }
    if answer.heat is not None:
        found["heat"] = answer.heat.round(4).tolist()
    return found


def top_k_of(text: str | None) -> int:
    """Read the query's top_k; 5 without one.

    Raises:
        Refused: 400, it is not a whole number from 1 to `MAX_TOP_K`.
    """
    if text is None:
        return 5
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_TOP_K):
        raise Refused(400, f"top_k is {text[:40]!r}, where it should be a number from 1 to {MAX_TOP_K}")
    return int(text)


def roi_of(text: str | None) -> tuple[int, int, int, int] | None:
    """Read the query's roi, "x1,y1,x2,y2" in pixels, inclusive; None without one.

    Raises:
        Refused: 400, it is not four whole numbers.
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise Refused(400, f"roi is {text[:60]!r}, where it should be x1,y1,x2,y2 in pixels")
    x1, y1, x2, y2 = map(int, parts)
    return x1, y1, x2, y2


def flag_of(name: str, text: str | None) -> bool:
    """Read a flag of the query: 1 or true, 0 or false; False without one.

    Raises:
        Refused: 400, it is anything else.
    """
    if text in (None, "0", "false"):
        return False
    if text in ("1", "true"):
        return True
    raise Refused(400, f"{name} is {str(text)[:40]!r}, where it should be 1 or 0")
