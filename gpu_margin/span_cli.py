"""The commands `gpu-margin span ...`: an exchange's risk parameter file and positions in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gpu_margin import commands, console, span_run, span_view
from gpu_margin.failures import ConfigError

_NOBODY = "no account could be margined"

span_app = typer.Typer(
    name="span",
    no_args_is_help=True,
    help="SPAN margin of listed derivatives by the exchanges' own risk parameter files.",
)

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Risk parameter file: CME's PA2 (expanded unpacked) or SPAN XML (.spn), plain or "
        "zipped.",
    ),
]
Positions = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="CSV or Parquet: account_id, contract_id, quantity (contracts, short below 0).",
    ),
]
Accounts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV or Parquet: account_id; optional account_type (member, hedger, speculator), "
        "gross (true: long and short positions apart).",
    ),
]
AccountType = Annotated[
    str,
    typer.Option(
        metavar="member|hedger|speculator", help="Of accounts of which --accounts says nothing."
    ),
]
Gross = Annotated[
    bool,
    typer.Option("--gross", help="Accounts of which --accounts says nothing are margined gross."),
]
Initial = Annotated[
    bool, typer.Option("--initial/--maintenance", help="Which margin; default: maintenance.")
]
Currency = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Convert totals by the file's own rates; default: a total per currency.",
    ),
]
AccountClass = Annotated[
    str, typer.Option(metavar="core|reserve", help="Whose rates of the file count.")
]
OwnRates = Annotated[
    bool,
    typer.Option(
        "--own-rates",
        help="Read SPAN XML for --account-type at this level alone: where account types have rates "
        "of their own, which is refused otherwise.",
    ),
]
DeltaPlaces = Annotated[
    int | None, typer.Option(min=0, max=12, help="Round deltas to so many decimals.")
]
SpreadPlaces = Annotated[
    int | None, typer.Option(min=0, max=12, help="Round numbers of spreads down to so many.")
]


@span_app.command()
def contracts(
    file: File,
    product: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those of this product, as CL.")
    ] = None,
    account_class: AccountClass = "core",
    out: commands.Tables = None,
    overwrite: commands.Overwrite = False,
    quiet: commands.Quiet = False,
    as_json: commands.AsJson = False,
) -> None:
    """List a file's contracts with the worst loss of one bought and of one sold.

    FILE.csv (or .parquet) gets contract_id, exchange, combined_commodity,
    product, type, future_month, option_month, right, strike, price,
    multiplier, delta, scan_long, scan_short (money of the combined commodity);
    FILE.failures.csv is beside it: lines of the file that could not be used,
    and what cannot be margined, each with the reason.
    """
    with commands.errors():
        files = commands.checked_files(out, ["failures"], overwrite)
        with console.progress_bars(quiet or as_json) as progress:
            progress("read", 0, 1)
            found = span_run.contracts(file, product, account_class=account_class)
            progress("read", 1, 1)
        written = files.write({"contracts": found.contracts, "failures": found.failures})
    if as_json:
        told = {"contracts": found.contracts.to_dicts(), "failures": found.failures.to_dicts()}
        commands.print_json({"facts": found.facts, **told})
    elif not quiet:
        span_view.show_contracts(found)
        console.say_written(written)


@span_app.command()
def margin(
    file: File,
    positions: Positions,
    accounts: Accounts = None,
    account_type: AccountType = "hedger",
    gross: Gross = False,
    initial: Initial = False,
    currency: Currency = None,
    account_class: AccountClass = "core",
    own_rates: OwnRates = False,
    standalone: Annotated[
        bool,
        typer.Option("--standalone", help="Every position alone, too, and their sum beside it."),
    ] = False,
    formed: Annotated[
        bool, typer.Option("--formed", help="Which spreads were formed, how many, at what amount.")
    ] = False,
    delta_places: DeltaPlaces = None,
    spread_places: SpreadPlaces = None,
    account: commands.OneAccount = None,
    out: commands.Tables = None,
    overwrite: commands.Overwrite = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    quiet: commands.Quiet = False,
    as_json: commands.AsJson = False,
) -> None:
    """Compute SPAN margin of every account.

    FILE.csv (or .parquet) gets a row per account and combined commodity, in
    its currency: account_id, combined_commodity, currency, scan_risk,
    active_scenario, intra_spread_charge, delivery_charge,
    inter_spread_credit, short_option_minimum, risk, net_option_value,
    requirement; beside it are written
    FILE.totals.csv: what every account requires, per currency or in --currency
    FILE.formed.csv: with --formed, spreads: charges, and credits below zero
    FILE.positions.csv, FILE.alone.csv: with --standalone, every position by
    itself, and per account their sum beside the requirement
    FILE.failures.csv: bad rows, and accounts that cannot be margined
    """
    asked = [("formed", formed), ("positions", standalone), ("alone", standalone)]
    names = ["totals", *(name for name, wanted in asked if wanted), "failures"]
    with commands.errors():
        files = commands.checked_files(out, names, overwrite)
        with console.progress_bars(quiet or as_json) as progress:
            run = span_run.span(
                file,
                positions,
                accounts,
                level=_level(initial),
                account_type=account_type,
                gross=gross,
                currency=currency,
                account_class=account_class,
                own_rates=own_rates,
                delta_places=delta_places,
                spread_places=spread_places,
                formed=formed,
                standalone=standalone,
                backend=backend,
                progress=progress,
            )
        shown = run if account is None else run.of(account)
        if account is not None and shown.totals.is_empty():
            raise ConfigError(f"--account {account!r}: there is no such account")
        written = files.write({name: getattr(run, name) for name in ("margins", *names)})
    if as_json:
        told = {name: getattr(shown, name).to_dicts() for name in ("margins", *names)}
        commands.print_json({**run.manifest, **told})
    elif not quiet:
        span_view.show_margins(shown, account is not None)
        console.say_written(written)
    raise typer.Exit(commands.exit_code(run.totals["requirement"], run.failures, strict, _NOBODY))


@span_app.command()
def whatif(
    file: File,
    positions: Positions,
    accounts: Accounts = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV or Parquet: account_id (none: a portfolio by itself), contract_id, quantity; "
            "optional whatif_id (its rows together), action (add, or remove: the whole position).",
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="CONTRACT=QTY", help="Bought, or sold below 0. May be repeated."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="CONTRACT", help="The whole position. May be repeated."),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Whose --add and --remove are; default: nobody's."),
    ] = None,
    account_type: AccountType = "hedger",
    gross: Gross = False,
    initial: Initial = False,
    currency: Currency = None,
    account_class: AccountClass = "core",
    own_rates: OwnRates = False,
    delta_places: DeltaPlaces = None,
    spread_places: SpreadPlaces = None,
    out: commands.Tables = None,
    overwrite: commands.Overwrite = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    quiet: commands.Quiet = False,
    as_json: commands.AsJson = False,
) -> None:
    """Show what adding or removing contracts would do to requirements.

    All what-ifs are margined in one batch, with the accounts that they start
    from. FILE.csv (or .parquet) gets whatif_id, account_id, currency, before,
    after, change, complete; FILE.failures.csv is beside it.
    """
    with commands.errors():
        files = commands.checked_files(out, ["failures"], overwrite)
        line = _changes(add, remove, account)
        if (changes is None) == (not line):
            raise ConfigError("give --changes FILE, or --add or --remove, but not both")
        with console.progress_bars(quiet or as_json) as progress:
            found = span_run.whatif(
                line if changes is None else changes,
                file,
                positions,
                accounts,
                level=_level(initial),
                account_type=account_type,
                gross=gross,
                currency=currency,
                account_class=account_class,
                own_rates=own_rates,
                delta_places=delta_places,
                spread_places=spread_places,
                backend=backend,
                progress=progress,
            )
        written = files.write({"whatifs": found.whatifs, "failures": found.failures})
    if as_json:
        told = {"whatifs": found.whatifs.to_dicts(), "failures": found.failures.to_dicts()}
        commands.print_json({**found.manifest, **told})
    elif not quiet:
        span_view.show_whatifs(found)
        console.say_written(written)
    raise typer.Exit(commands.exit_code(found.whatifs["after"], found.failures, strict, _NOBODY))


# ---------------------------------------------------------------- what is asked


def _level(initial: bool) -> str:
    return span_run.LEVELS[int(initial)]


def _changes(
    add: Sequence[str] | None, remove: Sequence[str] | None, account: str | None
) -> list[dict[str, Any]]:
    """The what-if of the command line; nothing where it has none."""
    found: list[dict[str, Any]] = []
    for text in add or ():
        name, equals, size = text.rpartition("=")
        try:
            if not equals or not name:
                raise ValueError
            quantity = float(size)
        except ValueError as error:
            raise ConfigError(f"--add {text!r}: write CONTRACT=QTY") from error
        found.append({"contract_id": name, "quantity": quantity, "action": "add"})
    if remove and account is None:
        raise ConfigError("--remove: name the account that holds it with --account")
    found += [{"contract_id": one, "quantity": None, "action": "remove"} for one in remove or ()]
    return [{"account_id": account, **one} for one in found]
