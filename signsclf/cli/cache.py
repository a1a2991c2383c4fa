"""The command ``signsclf cache``."""

from __future__ import annotations

from typing import Annotated

import typer

from signsclf.cli.options import AsJson, new_app
from signsclf.cli.terminal import TerminalObserver, echo, echo_json, eprint
from signsclf.errors import SignsclfError

app = new_app()


@app.command("cache")
def cache_command(
    cache: Annotated[
        str, typer.Option("--cache", help="Cache folder to look at; auto: the user's cache folder.", metavar="DIR")
    ] = "auto",
    clear: Annotated[bool, typer.Option("--clear", help="Delete all entries of the cache.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how large the cache of decoded images is, or clear it.

    Example: signsclf cache --clear
    """
    from signsclf.data.cache import cache_folder
    from signsclf.imagefiles import cachefolder as store

    folder = cache_folder(cache, TerminalObserver())
    if folder is None:
        raise SignsclfError("--cache: names no folder; give the one to look at")
    found = {"path": str(folder), "limit_bytes": store.MAX_CACHE_BYTES}
    if clear:
        freed, left = store.clear(folder)
        found["freed_bytes"] = freed
    entries, n_bytes = store.measure(folder)
    found |= {"entries": entries, "bytes": n_bytes}
    if as_json:
        echo_json(found)
    else:
        echo(f"cache: {folder}")
        if clear:
            echo(f"freed: {freed:,} bytes")
        echo(f"entries: {entries:,}, {n_bytes:,} bytes (kept up to {store.MAX_CACHE_BYTES:,}, and always the newest)")
    if clear and left:
        eprint(f"{left:,} entries cannot be deleted: they are in use, or the folder may not be written to")
        raise typer.Exit(1)
