"""The command ``signsclf verify``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from signsclf.cli.options import AsJson, ModelDir, new_app
from signsclf.cli.terminal import echo, echo_json, eprint
from signsclf.errors import require_extra

app = new_app()


@app.command("verify")
def verify_command(
    model: ModelDir,
    learner: Annotated[
        bool, typer.Option("--learner", help="Also open learner.pkl, a pickle, which can run code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify a model folder's checksums and golden outputs.

    Also shows its card, its size and its speed on this machine.

    Example: signsclf verify models/pets
    """
    if learner:
        require_extra("train", "--learner")
    from signsclf.export.verify import verify, verify_learner
    from signsclf.model.card import readable_part

    found = verify(model)
    result: dict[str, Any] = {
        "architecture": found.config.architecture,
        "classes": len(found.config.classes),
        "size": list(found.config.input_size),
        "figures": found.config.figures,
        "golden_difference": found.difference,
        "bytes": found.bytes,
        "milliseconds": found.milliseconds,
        "images_per_second": found.images_per_second,
    }
    if learner:
        eprint("warning: learner.pkl is a pickle, and opening it can run code; do so only with files that you trust")
        result["learner_difference"] = verify_learner(model)
    if as_json:
        echo_json(result)
        return
    for line in [*readable_part(found.card).rstrip().split("\n"), ""]:
        echo(line)
    echo(f"checksums: correct; golden outputs differ by {found.difference:.1e}")
    if learner:
        echo(f"learner.pkl: opened; golden outputs differ by {result['learner_difference']:.1e}")
    echo(
        f"size: {found.bytes / 1e6:.1f} MB; speed here: {found.milliseconds:.1f} ms an image, "
        f"{found.images_per_second:,.0f} images/s in batches"
    )
