"""The server's own protocol: POST /predict and GET /models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signsclf.serve.answers import Refused, json_response, timing_headers
from signsclf.serve.bodies import base64_bytes, form_parts, json_object, read_body
from signsclf.serve.engine import STAGES
from signsclf.serve.service import Answer, Roi, Service

MAX_TOP_K = 1000
_OPTIONS = ("model", "top_k", "roi", "explain")
_MAX_OPTION = 200  # bytes of an option's value in a form


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
                "card": model.card,
            }
            for model in service.models
        ]
        return json_response({"models": found, "default": service.models.default})

    return [Route("/predict", predict, methods=["POST"]), Route("/models", models, methods=["GET"])]


async def respond(service: Service, request: Request, body: bytes, deadline: float) -> Response:
    """Answer a request to POST /predict, or to another path that is to do the same, whose body has been read."""
    asked = _asked(request, body, service.settings.max_images)
    answers = await service.classify_all(
        [(image.data, image.roi) for image in asked.images],
        model=asked.model,
        top_k=asked.top_k,
        explain=asked.explain,
        deadline=deadline,
        request=request,
    )
    if len(answers) == 1 and isinstance(answers[0], Refused):
        raise answers[0]
    done = [answer for answer in answers if not isinstance(answer, Refused)]
    served = service.models.get(asked.model)
    value = {
        "model": done[0].model if done else served.name,
        "digest": done[0].digest if done else served.digest,
        "threshold": done[0].threshold if done else served.threshold,
        "predictions": [prediction_json(image.name, a) for image, a in zip(asked.images, answers, strict=True)],
    }
    return json_response(value, headers=timing_headers(slowest_of(answers)))


@dataclass(frozen=True, kw_only=True)
class _Image:
    name: str
    data: bytes
    roi: Roi | None


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a request asks for."""

    images: list[_Image]
    model: str | None
    top_k: int
    explain: bool


def _asked(request: Request, body: bytes, most: int) -> _Asked:
    """Read a request in any of the three forms: a raw image, a form with files, JSON."""
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    values: dict[str, str] = dict(request.query_params)
    if kind == "multipart/form-data":
        parts = form_parts(body, content_type, most + len(_OPTIONS))
        values |= {
            part.name: part.data[:_MAX_OPTION].decode("utf-8", "replace")
            for part in parts
            if part.filename is None and part.name in _OPTIONS
        }
        roi = roi_of(values.get("roi"))
        images = [_Image(name=p.filename, data=p.data, roi=roi) for p in parts if p.filename is not None]
    elif kind == "application/json":
        found = json_object(body)
        if unknown := sorted(found.keys() - {"images", *_OPTIONS}):
            raise Refused(400, f"the JSON has {unknown[0]!r:.40}, where images, {', '.join(_OPTIONS)} are known")
        listed = found.get("images")
        if not isinstance(listed, list) or len(listed) > most:
            raise Refused(400, f'"images" should be a list of 1 to {most} objects with "data", base64')
        values |= {name: _option(found[name]) for name in _OPTIONS if found.get(name) is not None}
        roi = roi_of(values.get("roi"))
        images = [_json_image(entry, f"images[{number}]", roi) for number, entry in enumerate(listed)]
    else:
        images = [_Image(name="", data=body, roi=roi_of(values.get("roi")))]
    return _Asked(
        images=images,
        model=values.get("model"),
        top_k=top_k_of(values.get("top_k")),
        explain=flag_of("explain", values.get("explain")),
    )


def _json_image(entry: Any, where: str, roi: Roi | None) -> _Image:
    if not isinstance(entry, dict):
        raise Refused(400, f'{where} should be an object with "data", base64')
    name = entry.get("name", "")
    if not isinstance(name, str):
        raise Refused(400, f"{where}.name should be text")
    own = entry.get("roi")
    return _Image(
        name=name,
        data=base64_bytes(entry.get("data"), f"{where}.data"),
        roi=roi if own is None else roi_of(_option(own)),
    )


def _option(value: Any) -> str:
    """Write an option of a JSON body as in a query: [1, 2, 3, 4] as "1,2,3,4", true as "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def slowest_of(answers: Sequence[Answer | Refused]) -> dict[str, float]:
    """Return the longest seconds of each stage; none where no image could be read."""
    done = [answer.timings for answer in answers if isinstance(answer, Answer)]
    return {stage: max(timings[stage] for timings in done) for stage in STAGES} if done else {}


def prediction_json(name: str, answer: Answer | Refused) -> dict[str, Any]:
    """Write one prediction, or why there is none, as JSON values."""
    if isinstance(answer, Refused):
        nothing = dict.fromkeys(("label", "index", "probability", "accepted"))
        return {"name": name, **nothing, "top_k": [], "error": answer.sentence}
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


def roi_of(text: str | None) -> Roi | None:
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
