"""The command `gpu-margin simm`: CRIF files in, initial margin out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from gpu_margin import commands, console, simm_view
from gpu_margin.failures import ConfigError
from gpu_margin.simm_run import SimmRun
from gpu_margin.simm_run import simm as margin_of

# Tables that a run may have beside its levels; in files FILE.<name>.csv beside FILE.csv.
_BESIDE = ("failures", "changes", "trades", "contributions", "trade_contributions", "comparison")


def simm(
    crif: Annotated[
        list[Path],
        typer.Argument(
            metavar="CRIF...",
            help="CRIF files: CSV, TSV or Parquet; amounts in AmountUSD, or in Amount and "
            "AmountCurrency with --fx.",
        ),
    ],
    version: Annotated[
        str, typer.Option(help="Of SIMM: 2.2 to 2.8+2512, or latest.", metavar="VERSION")
    ] = "latest",
    horizon: Annotated[str, typer.Option(help="Margin period of risk.", metavar="10d|1d")] = "10d",
    side: Annotated[
        str,
        typer.Option(
            help="The margin that we call, that we post, or both.", metavar="call|post|both"
        ),
    ] = "both",
    calculation_currency: Annotated[
        str, typer.Option(help="Its FX sensitivities are no risk.", metavar="CURRENCY")
    ] = "USD",
    result_currency: Annotated[
        str, typer.Option(help="That margins are shown in; needs --fx.", metavar="CURRENCY")
    ] = "USD",
    fx: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Parquet or CSV: currency, rate (USD for one unit); for --result-currency other "
            "than USD, and for rows without AmountUSD.",
        ),
    ] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(metavar="CRIF", help="What if these trades were added? May be repeated."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRADE,...", help="What if these trades were not there? May be repeated."
        ),
    ] = None,
    attribution: Annotated[
        bool,
        typer.Option(
            "--attribution", help="Where it comes from: risk factors and trades, adding up to it."
        ),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="What would this version do to the margin?"),
    ] = None,
    portfolio: Annotated[
        str | None, typer.Option(metavar="ID", help="Show this portfolio only, with its levels.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all levels of all portfolios: .parquet or .csv."),
    ] = None,
    overwrite: commands.Overwrite = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    quiet: commands.Quiet = False,
    as_json: commands.AsJson = False,
) -> None:
    """Compute ISDA SIMM and Schedule IM of every portfolio of a CRIF.

    FILE gets portfolio_id, side, regulation, product_class, risk_class,
    margin_type, bucket, initial_margin: one row per level, All where it is
    aggregated, all four All for the total; with --add or --remove the margin
    after the change. Beside FILE.csv (or .parquet) are written
    FILE.failures.csv: bad rows; their portfolios are incomplete
    FILE.changes.csv, FILE.trades.csv: with --add or --remove, what all trades
    change together, and each by itself
    FILE.contributions.csv, FILE.trade_contributions.csv: with --attribution
    FILE.comparison.csv: with --compare, every level under both versions
    --json prints totals and what was asked for; with --portfolio its levels, too.

    SIMM is ISDA's: commercial use needs its licence.
    """
    with commands.errors():
        beside = [name for name, asked in _asked(add, remove, attribution, compare) if asked]
        if out is not None:
            for path in (out, *(commands.beside(out, name) for name in beside)):
                commands.check_file(path, overwrite)
        with console.progress_bars(quiet or as_json) as progress:
            run = margin_of(
                crif,
                version=version,
                horizon=horizon,
                side=side,
                calculation_currency=calculation_currency,
                result_currency=result_currency,
                fx=fx,
                add=add or None,
                remove=[name.strip() for text in remove or () for name in text.split(",")],
                against=compare,
                attribution=attribution,
                backend=backend,
                progress=progress,
            )
        shown = run if portfolio is None else _only(run, portfolio)
        written = [] if out is None else _write(run, out)
    if as_json:
        commands.print_json(_as_dict(shown, portfolio is not None))
    elif not quiet:
        simm_view.show(shown)
        console.say_written(written)
    raise typer.Exit(
        commands.exit_code(
            run.totals["initial_margin"], run.failures, strict, "no portfolio has a good row"
        )
    )


def _asked(
    add: list[Path] | None, remove: list[str] | None, attribution: bool, compare: str | None
) -> list[tuple[str, bool]]:
    """Which of the tables beside the levels there will be."""
    trades = bool(add or remove)
    asked = (True, trades, trades, attribution, attribution, compare is not None)
    return list(zip(_BESIDE, asked, strict=True))


def _table(run: SimmRun, name: str) -> pl.DataFrame | None:
    if name == "comparison":
        return None if run.comparison is None else run.comparison.levels
    table: pl.DataFrame | None = getattr(run, name)
    return table


def _write(run: SimmRun, out: Path) -> list[Path]:
    """Write all tables, the levels last; what an earlier run left and this one lacks goes."""
    written = []
    for name in _BESIDE:
        table, path = _table(run, name), commands.beside(out, name)
        if table is None:
            continue
        commands.write_file(table, path)
        written.append(path)
    commands.write_file(run.levels, out)
    return [out, *written]


def _only(run: SimmRun, portfolio: str) -> SimmRun:
    """One portfolio's part of the tables; the failures are all."""
    found = run.of(portfolio)
    if found.totals.is_empty():
        raise ConfigError(f"--portfolio {portfolio!r}: the CRIF has no such portfolio")
    return found


def _as_dict(run: SimmRun, whole: bool) -> dict[str, Any]:
    """A run as plain lists and dicts."""
    names = [name for name in ("totals", *_BESIDE) if name != "comparison"]
    tables = {name: _table(run, name) for name in (["levels"] if whole else []) + names}
    told = {name: table.to_dicts() for name, table in tables.items() if table is not None}
    compared = run.comparison
    if compared is not None:
        told_too: dict[str, Any] = {"before": compared.before, "after": compared.after}
        told_too["totals"] = compared.totals.to_dicts()
        if whole:
            told_too["levels"] = compared.levels.to_dicts()
        return {**run.manifest, **told, "comparison": told_too}
    return {**run.manifest, **told}
