"""The command `gpu-margin serve`: the risk server on a run's own TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpu_margin import commands
from gpu_margin.failures import BackendUnavailable


def serve(
    config: commands.ConfigFile,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")
    ] = 8080,
    backend: commands.BackendName = "auto",
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines of fills and marks, taken once the book is ready; none twice.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Listen beyond this machine without TLS and authentication."
        ),
    ] = False,
    quiet: commands.Quiet = False,
) -> None:
    """Answer what-ifs, order checks, fills and marks over HTTP, on a resident book.

    [bold]CONFIG[/] is a run's TOML; its [bold]\\[server][/] table has limits, keys, TLS and where
    the state is kept. The page is at /, the interface at /docs, /ready says when the book is there.
    Fills and marks are in a durable log before they are acknowledged; a restart goes on from it.
    """
    with commands.errors():
        try:
            from gpu_margin.server.serving import serve as run
        except ImportError as error:
            raise BackendUnavailable(
                f"the server needs {error.name}: pip install 'gpu-margin[serve]'"
            ) from error
        run(config, host, port, backend, replay, insecure, quiet)
