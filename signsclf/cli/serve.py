"""The command ``signsclf serve``."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from signsclf.cli.options import new_app
from signsclf.cli.terminal import eprint, machine_output, no_garbage, on_signals, tell_log
from signsclf.errors import require_extra

app = new_app()


@app.command("serve")
def serve_command(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            help="Model folders, or NAME=FOLDER; the first is the default. Unset: as in predict.", metavar="[MODEL]…"
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.", envvar="SIGNSCLF_HOST")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", help="Port to listen on; 0: a free one.", envvar=["AIP_HTTP_PORT", "PORT"], min=0, max=65535
        ),
    ] = 8000,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", help="Refuse requests with larger bodies.", metavar="N", min=1)
    ] = 20_000_000,
    max_pixels: Annotated[
        int,
        typer.Option(
            "--max-pixels", help="Refuse images with more pixels.", envvar="SIGNSCLF_MAX_PIXELS", metavar="N", min=1
        ),
    ] = 40_000_000,
    deadline: Annotated[
        float, typer.Option("--deadline", help="Seconds until work must begin, else 504.", metavar="SECONDS")
    ] = 10.0,
    max_wait: Annotated[
        float, typer.Option("--max-wait", help="Seconds of work that may wait, else 429.", metavar="SECONDS")
    ] = 0.5,
    drain: Annotated[
        float, typer.Option("--drain", help="Seconds to accept work after SIGTERM.", metavar="SECONDS", min=0)
    ] = 5.0,
    runners: Annotated[
        int | None, typer.Option("--runners", help="Runs of a network at a time; unset: measured.", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads of each run; unset: measured.", min=1)
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", help="Images in a run; unset: measured.", min=1, max=32)
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Write a JSON line for each request to standard output.")
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with the token that requests must carry (Authorization: Bearer). $SIGNSCLF_TOKEN does too.",
        ),
    ] = None,
    is_open: Annotated[
        bool,
        typer.Option("--open", help="Allow a --host that others can reach without a token.", envvar="SIGNSCLF_OPEN"),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            help="Name that the server answers to besides its own; '*': any. Repeatable.",
            envvar="SIGNSCLF_ALLOW_HOST",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", help="Site whose pages may use the server (CORS). Repeatable."),
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve a page for people at /.")] = True,
    health_route: Annotated[
        str | None,
        typer.Option("--health-route", help="A further path for health.", envvar="AIP_HEALTH_ROUTE", metavar="PATH"),
    ] = None,
    predict_route: Annotated[
        str | None,
        typer.Option(
            "--predict-route", help="A further path for predictions.", envvar="AIP_PREDICT_ROUTE", metavar="PATH"
        ),
    ] = None,
    max_connections: Annotated[int, typer.Option("--max-connections", help="Open at a time.", min=1)] = 1000,
    body_timeout: Annotated[float, typer.Option("--body-timeout", help="Seconds for a request's body.")] = 60.0,
) -> None:
    """Serve models over HTTP.

    SIGTERM ends it when all that was accepted is answered, a second signal at once. SIGHUP, or another model in the
    folder, replaces the model.

    Example: signsclf serve models/pets --port 8080
    """
    require_extra("serve", "serve")
    with no_garbage():
        from signsclf.images import limit_pixels
        from signsclf.inference.classifier import find_model
        from signsclf.serve.guard import read_token
        from signsclf.serve.models import Models, load_model
        from signsclf.serve.server import Server
        from signsclf.serve.service import Service
        from signsclf.serve.settings import ServeSettings

    settings = ServeSettings(
        host=host,
        port=port,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        budget_bytes=max(ServeSettings.budget_bytes, 4 * max_bytes),
        budget_pixels=max(ServeSettings.budget_pixels, 4 * max_pixels),
        deadline=deadline,
        max_wait=max_wait,
        drain=drain,
        runners=runners,
        threads=threads,
        max_batch=max_batch,
        token=read_token(token_file, os.environ),
        is_open=is_open,
        allow_hosts=tuple(allow_host or ()),
        allow_origins=tuple(allow_origin or ()),
        page=page,
        health_route=health_route,
        predict_route=predict_route,
        max_connections=max_connections,
        body_seconds=body_timeout,
    )
    limit_pixels(max_pixels)
    tell_log()
    loaded = []
    for text in model or [""]:
        name, equals, rest = text.partition("=")
        folder, _ = find_model(rest if equals else text, os.environ, Path.cwd())
        loaded.append(
            load_model(
                folder,
                name if equals else folder.absolute().name,
                threads=settings.layouts[0][1],
                max_batch=max_batch or 1,
            )
        )
    server = Server(Service(Models(loaded), settings), eprint, _log if access_log else None)
    stopping = False

    def heard(number: int, _: object) -> None:
        nonlocal stopping
        if number == getattr(signal, "SIGHUP", None):
            server.refresh()
        elif stopping:
            # uvloop swallows exceptions of signal handlers; and nothing has to be put away, nothing is on disk.
            eprint("stopped")
            os._exit(128 + number)
        else:
            stopping = True
            eprint("ending when all that was accepted is answered; once more ends at once")
            server.stop(drain if number == signal.SIGTERM else 0)

    # A closed terminal ends no server: its SIGHUP reads the folders anew, and under nohup `kill -HUP` is meant.
    on_signals(heard, nohup=False)
    server.run()


def _log(line: str) -> None:
    output = machine_output()
    # A full disk or a closed pipe costs the line, and no answer.
    with contextlib.suppress(OSError):
        output.write(line + "\n")
        output.flush()
