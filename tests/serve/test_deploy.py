"""The Dockerfile and the Kubernetes example, as far as that can be checked without a daemon and a cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from signsclf.cli.serve import app
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve

ROOT = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml")


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text("utf-8"))
FINAL = DOCKERFILE[[number for number, (name, _) in enumerate(DOCKERFILE) if name == "FROM"][-1] :]
ENV = dict(pair.split("=", 1) for name, rest in FINAL if name == "ENV" for pair in rest.split())


def one(name: str) -> str:
    (found,) = (rest for known, rest in FINAL if known == name)
    return found


def parameters(arguments: list[str], environment: dict[str, str], monkeypatch) -> dict:
    """What `signsclf serve` is given by arguments and environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = get_command(app)
    return command.make_context("serve", arguments).params


def test_the_image_runs_as_no_root_and_starts_the_server(monkeypatch):
    user, group = one("USER").split(":")
    assert int(user) > 0 and int(group) > 0
    assert json.loads(one("ENTRYPOINT")) == ["signsclf"] and json.loads(one("CMD")) == ["serve"]
    assert one("EXPOSE") == ENV["PORT"] and one("STOPSIGNAL") == "SIGTERM"
    environment = {name: value for name, value in ENV.items() if name != "PATH"}
    found = parameters([], environment, monkeypatch)
    assert (found["host"], found["port"], found["is_open"]) == ("0.0.0.0", 8080, False)
    environment = {
        "SIGNSCLF_OPEN": "1",
        "SIGNSCLF_ALLOW_HOST": "a b",
        "AIP_HTTP_PORT": "9090",
        "AIP_HEALTH_ROUTE": "/h",
    }
    found = parameters([], {**environment, "AIP_PREDICT_ROUTE": "/p"}, monkeypatch)
    assert (found["port"], found["is_open"], list(found["allow_host"])) == (9090, True, ["a", "b"])
    assert (found["health_route"], found["predict_route"]) == ("/h", "/p")


def test_the_image_is_built_from_files_that_are_there_and_not_ignored():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    sources = [
        word for name, rest in DOCKERFILE if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]
    assert sorted(sources) == sorted(allowed)
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_checks_its_health(server):
    check = json.loads(re.sub(r"^(--\S+\s+)+CMD\s+", "", one("HEALTHCHECK")))
    assert check[0] == "python"
    port = server.url.rpartition(":")[2]

    def checked(**environment: str) -> int:
        environment = {**os.environ, "no_proxy": "*", **environment}
        return subprocess.run(
            [sys.executable, *check[1:]], env=environment, capture_output=True, check=False
        ).returncode

    assert checked(PORT=port) == 0
    assert checked(PORT="1", AIP_HTTP_PORT=port) == 0
    assert checked(PORT="1") != 0


def test_kubernetes_asks_for_what_is_there(serve, monkeypatch):
    server = serve()
    deployment, service = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text("utf-8"))
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == ENV["PORT"] and service["spec"]["ports"][0]["targetPort"] == port["name"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]["httpGet"]
        assert probe["port"] == port["name"]
        assert server.get(probe["path"]).status_code == 200, name
    server.service.ready = False
    assert server.get(container["readinessProbe"]["httpGet"]["path"]).status_code == 503
    assert server.get(container["livenessProbe"]["httpGet"]["path"]).status_code == 200
    limits = container["securityContext"]
    assert limits["readOnlyRootFilesystem"] and not limits["allowPrivilegeEscalation"]
    assert limits["capabilities"] == {"drop": ["ALL"]} and pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > ServeSettings.drain + ServeSettings.deadline
    # Bodies, and the largest images in a decoding thread for each core.
    cores = int(container["resources"]["limits"]["cpu"])
    budget = ServeSettings.budget_bytes + cores * 7 * ServeSettings.max_pixels
    assert int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20 > budget + 200 * 2**20
    command, *arguments = container["args"]
    assert command == "serve"
    values = {each["name"]: each.get("value", "a-token-of-16-characters") for each in container["env"]}
    found = parameters(arguments, {**values, "SIGNSCLF_HOST": ENV["SIGNSCLF_HOST"]}, monkeypatch)
    assert not found["page"] and "signsclf.default.svc" in found["allow_host"]
    ServeSettings(host=found["host"], token=values["SIGNSCLF_TOKEN"], allow_hosts=tuple(found["allow_host"]))
