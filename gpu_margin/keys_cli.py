"""The commands `gpu-margin keys ...`: API keys of a server, made, listed and revoked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from gpu_margin import commands, console
from gpu_margin.failures import ConfigError
from gpu_margin.server.keys import ApiKey, new_key, read_keys, revoke_key

keys_app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    help="Make, list and revoke the API keys of a server.",
)

KeyFile = Annotated[
    Path, typer.Option("--file", metavar="FILE", help="The file of keys; it has only their hashes.")
]


@keys_app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The client's name.")],
    file: KeyFile,
    scope: Annotated[
        list[str],
        typer.Option(metavar="read|whatif|trade|admin", help="What it may do; may be repeated."),
    ],
    tenant: Annotated[
        str | None, typer.Option(help="It sees this tenant's accounts only; default: all.")
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            metavar="YYYY-MM-DD",
            help="From then on (UTC) it is refused; default: never.",
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second; default: the server's setting.")
    ] = None,
    burst: Annotated[
        float | None, typer.Option(help="Requests at once; default: those of one second.")
    ] = None,
    as_json: commands.AsJson = False,
) -> None:
    """Make a key and print it, once: FILE has only its hash.

    A server that runs takes it within a second. A second key of the same NAME is the same client.
    """
    with commands.errors():
        until = None if expires is None else _ahead(expires.replace(tzinfo=UTC))
        settings: dict[str, Any] = {"tenant": tenant, "expires": until}
        settings |= {"rate": rate, "burst": burst, "scopes": scope}
        key_id, key = new_key(file, name, **settings)
    if as_json:
        commands.print_json({"id": key_id, "key": key})
    else:
        console.say(key)
        Console(stderr=True).print(
            f"{key_id} of {name} is in {file}; the key itself is kept nowhere else",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@keys_app.command("list")
def list_keys(file: KeyFile, as_json: commands.AsJson = False) -> None:
    """List the keys of a file: whose they are, and what they may do."""
    with commands.errors():
        keys = read_keys(file)
    rows = [_row(key_id, key) for key_id, key in keys.items()]
    if as_json:
        commands.print_json(rows)
        return
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("id", "name", "scopes", "tenant", "rate", "created", "expires", "state"):
        grid.add_column(column, no_wrap=True)
    for row in rows:
        grid.add_row(*(escape(_cell(row[str(column.header)])) for column in grid.columns))
    Console().print(grid)


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as in list.")],
    file: KeyFile,
) -> None:
    """Remove a key: a server that runs refuses it within a second."""
    with commands.errors():
        key = revoke_key(file, key_id)
    console.say(f"{key_id} of {key.name} is revoked")


def _ahead(until: datetime) -> datetime:
    if until <= datetime.now(UTC):
        raise ConfigError(f"--expires {until:%Y-%m-%d}: is over already")
    return until


def _row(key_id: str, key: ApiKey) -> dict[str, Any]:
    row = key.model_dump(mode="json", exclude={"hash"})
    state = "expired" if key.expired(datetime.now(UTC)) else "valid"
    return {"id": key_id, **row, "scopes": sorted(key.scopes), "state": state}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, list) else str(value)
