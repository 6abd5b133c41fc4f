"""The commands `gpu-margin crypto ...`: a venue's feeds and accounts in, portfolio margin out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from gpu_margin import commands, console, crypto_run, crypto_view
from gpu_margin.crypto_batches import kinds, rulebook, tables
from gpu_margin.crypto_requests import read
from gpu_margin.failures import ConfigError

_NOBODY = "no netting set could be margined"

crypto_app = typer.Typer(
    name="crypto",
    no_args_is_help=True,
    help="Portfolio margin of crypto venues: margins, what-ifs, liquidation prices.",
)

Feeds = Annotated[
    Path,
    typer.Argument(metavar="FEEDS", help="Prices and volatilities: JSON, or a folder of answers."),
]
Positions = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="CSV or Parquet: account_id, instrument_id, quantity (units of the underlying); "
        "optional netting_set (subaccount), market; or a venue's answers as JSON.",
    ),
]
Balances = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV or Parquet: account_id, kind (cash, collateral, unrealised), amount; optional "
        "asset, netting_set, market.",
    ),
]
RulebookName = Annotated[
    str, typer.Option(metavar="NAME", help="One of [bold]gpu-margin crypto rulebooks[/].")
]
Version = Annotated[
    str | None, typer.Option(metavar="VERSION", help="Of the rulebook's table of numbers.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another number than the table's, as BTC.im_factor=1.2. May be repeated.",
    ),
]


@crypto_app.command()
def margin(
    feeds: Feeds,
    positions: Positions,
    balances: Balances = None,
    rulebook: RulebookName = crypto_run.DEFAULT,
    table: Version = None,
    changes: Changes = None,
    scenarios: Annotated[
        bool,
        typer.Option(
            "--scenarios", help="Profit in every scenario, for --account, --json and FILE."
        ),
    ] = False,
    account: commands.OneAccount = None,
    out: commands.Tables = None,
    overwrite: commands.Overwrite = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    quiet: commands.Quiet = False,
    as_json: commands.AsJson = False,
) -> None:
    """Compute initial and maintenance margin of every account on a crypto venue.

    A margin value is mark-to-market and cash less the requirement: orders are
    accepted while that at initial margin is not negative, a subaccount may be
    liquidated where that at maintenance margin is. FILE.csv (or .parquet)
    gets account_id, netting_set, market, level, requirement, mark_to_market,
    cash, margin_value, worst_scenario, complete; beside it are written
    FILE.components.csv: parts that add up to the requirements
    FILE.figures.csv: further figures of the rulebook
    FILE.scenarios.csv: with --scenarios, profit by scenario
    FILE.failures.csv: bad rows, and sets that cannot be margined
    """
    names = ["components", "figures", *(["scenarios"] if scenarios else []), "failures"]
    with commands.errors():
        files = commands.checked_files(out, names, overwrite)
        with console.progress_bars(quiet or as_json) as progress:
            run = crypto_run.crypto(
                rulebook,
                feeds,
                positions,
                balances,
                table=table,
                scenarios=scenarios,
                backend=backend,
                progress=progress,
                **_settings(rulebook, changes),
            )
        shown = run if account is None else run.of(account)
        _found(account, shown.margins)
        found = {"margins": run.margins, **{name: getattr(run, name) for name in names}}
        written = files.write(found)
    if as_json:
        more = names if account is not None or scenarios else ["failures"]
        told = {name: getattr(shown, name).to_dicts() for name in ("margins", *more)}
        commands.print_json({**run.manifest, **told})
    elif not quiet:
        crypto_view.show_margins(shown, account is not None)
        console.say_written(written)
    raise typer.Exit(commands.exit_code(run.margins["requirement"], run.failures, strict, _NOBODY))


@crypto_app.command()
def whatif(
    feeds: Feeds,
    positions: Positions,
    balances: Balances = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            metavar="FILE",
            help="JSON: one what-if or a list, each with simulated_positions (instrument: "
            "quantity), add_positions (true), account, netting_set, currency, prices, cash.",
        ),
    ] = None,
    trade: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INSTRUMENT=QTY",
            help="A trade of one what-if, as BTC-PERP=-2, or BTC-PERP=-2@90100 with its price. "
            "May be repeated.",
        ),
    ] = None,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="Whose the trades are; default: nobody's.")
    ] = None,
    netting_set: Annotated[
        str | None, typer.Option(metavar="SET", help="Where the account has several.")
    ] = None,
    currency: Annotated[
        str | None, typer.Option(metavar="NAME", help="The market of a set of its own.")
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="Instead of the derivatives held, not on top of them.")
    ] = False,
    cash: Annotated[float, typer.Option(help="Paid in, USD; negative: taken out.")] = 0.0,
    rulebook: RulebookName = crypto_run.DEFAULT,
    table: Version = None,
    changes: Changes = None,
    out: commands.Tables = None,
    overwrite: commands.Overwrite = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    quiet: commands.Quiet = False,
    as_json: commands.AsJson = False,
) -> None:
    """Show what trades would do to margins; any number of what-ifs at once.

    A what-if has the shape of Deribit's simulations. Trades without a price
    cost nothing: perpetuals are done at their mark, options and coins are
    given. FILE.csv (or .parquet) gets whatif_id, account_id, netting_set,
    market, level, before, after, change, margin_value_before, margin_value,
    margin_value_change, worst_scenario_before, worst_scenario, complete;
    FILE.failures.csv is beside it.
    """
    with commands.errors():
        files = commands.checked_files(out, ["failures"], overwrite)
        line = _one_whatif(trade, account, netting_set, currency, only, cash)
        if (requests is None) == (line is None):
            raise ConfigError("give --requests FILE, or --trade INSTRUMENT=QTY, but not both")
        asked = line if requests is None else read(requests)
        with console.progress_bars(quiet or as_json) as progress:
            found = crypto_run.whatif(
                asked,
                rulebook,
                feeds,
                positions,
                balances,
                table=table,
                backend=backend,
                progress=progress,
                **_settings(rulebook, changes),
            )
        written = files.write({"whatifs": found.whatifs, "failures": found.failures})
    if as_json:
        told = {"whatifs": found.whatifs.to_dicts(), "failures": found.failures.to_dicts()}
        commands.print_json({**found.manifest, **told})
    elif not quiet:
        crypto_view.show_whatifs(found)
        console.say_written(written)
    raise typer.Exit(commands.exit_code(found.whatifs["after"], found.failures, strict, _NOBODY))


@crypto_app.command()
def liquidation(
    feeds: Feeds,
    positions: Positions,
    balances: Balances = None,
    underlying: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Move this price only. May be repeated."),
    ] = None,
    rulebook: RulebookName = crypto_run.DEFAULT,
    table: Version = None,
    changes: Changes = None,
    account: commands.OneAccount = None,
    out: commands.Tables = None,
    overwrite: commands.Overwrite = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    quiet: commands.Quiet = False,
    as_json: commands.AsJson = False,
) -> None:
    """Find out how far accounts are from liquidation, and the prices that bring it.

    One underlying is moved at a time, from 0.2 to 3 times its spot price:
    spot, perpetuals, futures, forwards and its coins by the same factor;
    implied volatilities stay. There may be several prices, or none in this
    range. FILE.csv (or .parquet) gets all prices: account_id, netting_set,
    underlying, spot, price, change_percent, within, side, nearest, turns;
    FILE.distance.csv, FILE.nearest.csv and FILE.failures.csv are beside it.
    """
    names = ["distance", "nearest", "failures"]
    with commands.errors():
        files = commands.checked_files(out, names, overwrite)
        with console.progress_bars(quiet or as_json) as progress:
            found = crypto_run.liquidation(
                rulebook,
                feeds,
                positions,
                balances,
                underlyings=underlying or None,
                table=table,
                backend=backend,
                progress=progress,
                **_settings(rulebook, changes),
            )
        shown = found if account is None else found.of(account)
        _found(account, shown.distance)
        every = ("prices", *names)
        written = files.write({name: getattr(found, name) for name in every})
    if as_json:
        told = {name: getattr(shown, name).to_dicts() for name in every}
        commands.print_json({**found.manifest, **told})
    elif not quiet:
        crypto_view.show_liquidation(shown, account is not None)
        console.say_written(written)
    raise typer.Exit(
        commands.exit_code(found.distance["maintenance"], found.failures, strict, _NOBODY)
    )


@crypto_app.command()
def rulebooks(as_json: commands.AsJson = False) -> None:
    """List the rulebooks, and for each its tables of numbers with dates and sources."""
    found = [{"rulebook": kind, **table} for kind in kinds() for table in tables(kind)]
    if as_json:
        commands.print_json(found)
    else:
        crypto_view.show_rulebooks(found)


# ---------------------------------------------------------------- what is asked


def _settings(kind: str, changes: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Of KEY=VALUE: settings of the rulebook by their names, all else figures."""
    known = rulebook(kind).Parameters.model_fields
    figures, settings = dict[str, Any](), dict[str, Any]()
    for text in changes or ():
        key, equals, value = text.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ConfigError(f"--set {text!r}: write KEY=VALUE, as BTC.im_factor=1.2")
        if parts[0] == "figures":
            parts = parts[1:] or [""]
        place = settings if parts[0] in known else figures
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {text!r}: {part} has a value already")
        place[parts[-1]] = _value(value.strip())
    return {"figures": figures, "settings": settings} if changes else {}


def _value(text: str) -> Any:
    """A number, true, false or a list as in JSON; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _one_whatif(
    trades: Sequence[str] | None,
    account: str | None,
    netting_set: str | None,
    currency: str | None,
    only: bool,
    cash: float,
) -> Any:
    """The what-if of the command line, None where it has none."""
    if not trades and cash == 0.0:
        return None
    quantities, prices = dict[str, float](), dict[str, float]()
    for text in trades or ():
        name, equals, size = text.rpartition("=")
        quantity, at, price = size.partition("@")
        try:
            if not equals or not name or name in quantities:
                raise ValueError
            quantities[name] = float(quantity)
            if at:
                prices[name] = float(price)
        except ValueError as error:
            raise ConfigError(
                f"--trade {text!r}: write INSTRUMENT=QTY or INSTRUMENT=QTY@PRICE, each once"
            ) from error
    where = {"account": account, "netting_set": netting_set, "currency": currency}
    return {
        "whatif_id": "trades",
        **{key: value for key, value in where.items() if value is not None},
        "simulated_positions": quantities,
        "add_positions": not only and (account is not None or netting_set is not None),
        "prices": prices,
        "cash": cash,
    }


def _found(account: str | None, table: pl.DataFrame) -> None:
    if account is not None and table.is_empty():
        raise ConfigError(f"--account {account!r}: there is no such account")
