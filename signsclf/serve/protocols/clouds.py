"""What clouds call: SageMaker's GET /ping and POST /invocations, and the two routes that Vertex AI names.

POST /invocations is POST /predict that also takes Vertex AI's ``{"instances": [{"b64": …}]}`` and answers
``{"predictions": […]}``, one for each in order.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from signsclf.serve.answers import Refused, json_response, timing_headers
from signsclf.serve.bodies import base64_bytes, json_object, parameters_of, read_body
from signsclf.serve.protocols.predict import prediction_json, respond, slowest_of, top_k_of
from signsclf.serve.service import Answer, Service

_NAMES = (("image_bytes",), ("b64", "content"))


def routes(service: Service) -> list[Route]:
    """Make the routes of this protocol."""

    async def ping(_: Request) -> Response:
        return PlainTextResponse("ready\n") if service.ready else PlainTextResponse("not ready\n", 503)

    async def invoke(request: Request) -> Response:
        deadline = service.deadline(request)
        body = await read_body(request, service.settings.max_bytes)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            return await respond(service, request, body, deadline)
        value = json_object(body)
        if "instances" not in value:
            return await respond(service, request, body, deadline)
        top_k = parameters_of(value).get("top_k")
        answers = await service.classify_all(
            [(data, None) for data in images_of(value, service.settings.max_images)],
            top_k=top_k_of(None if top_k is None else str(top_k)),
            deadline=deadline,
            request=request,
        )
        headers = timing_headers(slowest_of(answers))
        return json_response({"predictions": [_prediction(answer) for answer in answers]}, headers=headers)

    settings = service.settings
    found = [Route("/ping", ping, methods=["GET"]), Route("/invocations", invoke, methods=["POST"])]
    if settings.health_route is not None:
        found.append(Route(settings.health_route, ping, methods=["GET"]))
    if settings.predict_route is not None:
        found.append(Route(settings.predict_route, invoke, methods=["POST"]))
    return found


def images_of(value: dict[str, Any], most: int) -> list[bytes]:
    """Read the images of a request for Vertex AI: base64 text, {"b64": …}, or {"image_bytes": {"b64": …}}.

    Raises:
        Refused: 400, it does not follow the contract, or has more than ``most`` images.
    """
    instances = value["instances"]
    if not isinstance(instances, list) or not 1 <= len(instances) <= most:
        raise Refused(400, f'"instances" should be a list of 1 to {most} objects with "b64", base64')
    return [base64_bytes(_text_of(instance), f"instances[{n}]") for n, instance in enumerate(instances)]


def _text_of(instance: Any) -> Any:
    for names in _NAMES:
        if isinstance(instance, dict):
            instance = next((instance[name] for name in names if name in instance), instance)
    return instance


def _prediction(answer: Answer | Refused) -> dict[str, Any]:
    found = prediction_json("", answer)
    if isinstance(answer, Answer):
        found |= {"model": answer.model, "digest": answer.digest, "threshold": answer.threshold}
    return found
