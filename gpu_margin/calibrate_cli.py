"""The commands `gpu-margin calibrate ...`: parameters from history, beside those in use."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from gpu_margin import console, engine
from gpu_margin.calibration import Calibrated, effect, effect_totals, recalibrate
from gpu_margin.commands import (
    AsJson,
    BackendName,
    ConfigFile,
    Quiet,
    check_file,
    errors,
    print_json,
    write_file,
)
from gpu_margin.config import Config, load_config, on_positions
from gpu_margin.failures import ConfigError
from gpu_margin.haircuts import Calibration

_SHOWN = 10

app = typer.Typer(
    name="calibrate",
    no_args_is_help=True,
    help="Set parameters from history, and show what they would change.",
)


@app.callback()
def _calibrate() -> None:
    """With a callback, a group of one command stays a group."""


@app.command()
def haircuts(
    config: ConfigFile,
    method: Annotated[
        str,
        typer.Option(
            help="quantile of the losses, or ewma: exponentially weighted volatility.",
            metavar="quantile|ewma",
        ),
    ] = "quantile",
    confidence: Annotated[float, typer.Option(help="Share of losses that are covered.")] = 0.99,
    horizon_days: Annotated[int, typer.Option(help="Days that selling an asset takes.")] = 2,
    lookback: Annotated[
        int | None, typer.Option(help="The last so many returns count; default: all.")
    ] = None,
    decay: Annotated[float, typer.Option(help="ewma: weight of a day to the next.")] = 0.97,
    stress_date: Annotated[
        list[datetime] | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            help="No haircut below the loss that ended on this day; may be repeated.",
        ),
    ] = None,
    stress_history: Annotated[
        bool, typer.Option("--stress-history", help="No haircut below the worst loss of all.")
    ] = False,
    fx_factor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CURRENCY=FACTOR",
            help="The factor that is the currency's price in margin currency, for the FX add-on; "
            "1/FACTOR where it is the other way round; may be repeated.",
        ),
    ] = None,
    step: Annotated[float, typer.Option(help="Haircuts are rounded up to multiples.")] = 0.005,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the new table: .parquet or .csv.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    no_effect: Annotated[
        bool, typer.Option("--no-effect", help="Do not run the margin to see what would change.")
    ] = False,
    backend: BackendName = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Calibrate the haircuts of the collateral assets on the history of their factors.

    A haircut is the larger of method and stress floor, rounded up; so is a currency's FX add-on.
    FILE becomes a table of the valid assets with the new haircuts. With collateral, the margin is
    run with both tables, to show the effect on excess.
    """
    with errors():
        asked = _settings(
            method=method,
            confidence=confidence,
            horizon_days=horizon_days,
            lookback=lookback,
            decay=decay,
            stress_dates=[day.date() for day in stress_date or ()],
            stress_history=stress_history,
            step=step,
            fx_factors=_pairs(fx_factor or ()),
        )
        if out is not None:
            check_file(out, overwrite)
        read = load_config(config)
        found = recalibrate(read, asked)
        effects = None if no_effect else _effects(read, found, backend, quiet or as_json)
        if out is not None:
            write_file(found.table, out)
    if as_json:
        print_json(_as_dict(found, effects, out))
    elif not quiet:
        _show(found, effects, out)


def _settings(**values: Any) -> Calibration:
    """Options as settings; what is wrong with them by the options' names."""
    try:
        return Calibration.model_validate(values)
    except ValidationError as error:
        lines = [
            f"--{str(fault['loc'][0]).replace('_', '-')}: {fault['msg']} (given: {fault['input']})"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from error


def _pairs(options: list[str] | tuple[()]) -> dict[str, str]:
    pairs = [option.partition("=") for option in options]
    for option, (currency, _, factor) in zip(options, pairs, strict=True):
        if not currency or not factor:
            raise ConfigError(f"--fx-factor {option}: write CURRENCY=FACTOR, as EUR=EURUSD")
    found = {currency: factor for currency, _, factor in pairs}
    if len(found) < len(pairs):
        raise ConfigError("--fx-factor: a currency has two factors; name one")
    return found


def _effects(config: Config, found: Calibrated, backend: str, silent: bool) -> pl.DataFrame | None:
    """What a run with the new haircuts says otherwise; None where nobody holds collateral."""
    if config.inputs.collateral is None:
        return None
    with console.progress_bars(silent) as progress:
        run = partial(engine.run, on_positions(config), backend=backend, progress=progress)
        before, after = run().accounts, run(assets=found.table).accounts
    return None if before is None or after is None else effect(before, after)


def _as_dict(found: Calibrated, effects: pl.DataFrame | None, out: Path | None) -> dict[str, Any]:
    origin = found.table.select("method", "calibrated_on", "source_sha256")
    assets = pl.concat([found.haircuts, origin], how="horizontal").to_dicts()
    changed = None
    if effects is not None:
        accounts = effects.filter(_CHANGED).to_dicts()
        changed = {"totals": effect_totals(effects), "accounts": accounts}
    return {
        "out": None if out is None else str(out),
        "assets": assets,
        "effect": changed,
        "failures": found.failures.to_dicts(),
    }


_CHANGED = pl.col("collateral_value") != pl.col("collateral_value_after")


# ---------------------------------------------------------------- for people


def _show(found: Calibrated, effects: pl.DataFrame | None, out: Path | None) -> None:
    _print(_haircut_grid(found.haircuts))
    if effects is not None:
        _print(_total_grid(effects))
        changed = effects.filter(_CHANGED)
        if len(changed):
            _print(_account_grid(changed))
    console.show_failures(found.failures)
    if out is not None:
        console.say(f"New assets table in {out}")


def _haircut_grid(haircuts: pl.DataFrame) -> Grid:
    foreign = haircuts["fx_haircut"].is_not_null().any()
    names = ["asset", "in use", "calibrated", "change", "rule"]
    names += ["FX in use", "FX calibrated", "FX change", "FX rule"] if foreign else []
    grid = _grid("Haircuts, per cent", [*names, "note"], left=("asset", "rule", "FX rule", "note"))
    for row in haircuts.iter_rows(named=True):
        parts = ("", "fx_") if foreign else ("",)
        cells = [cell for part in parts for cell in _haircut_cells(row, part)]
        grid.add_row(escape(row["asset"]), *cells, escape(row["note"] or ""))
    return grid


def _haircut_cells(row: dict[str, Any], part: str) -> list[str]:
    """In use, calibrated, change and rule; a haircut that is not given is 0."""
    used, new = row[f"{part}haircut_in_use"] or 0.0, row[f"{part}haircut"] or 0.0
    change = f"{100 * (new - used):+.2f}" if new != used else ""
    return [f"{100 * used:.2f}", f"{100 * new:.2f}", change, row[f"{part}rule"]]


def _total_grid(effects: pl.DataFrame) -> Grid:
    names = ["model", "accounts", "collateral", "calibrated", "change", "calls", "calibrated"]
    title = "Effect on collateral value, and with it on excess"
    grid = _grid(title, [*names, "status", "calibrated"], left=("model", "status"))
    for row in effect_totals(effects):
        before, after = row["collateral_value"], row["collateral_value_after"]
        amounts = [_amount(x) for x in (before, after, after - before)]
        calls = [_amount(row["call"]), _amount(row["call_after"])]
        counts = [_counts(row["status"]), _counts(row["status_after"])]
        grid.add_row(escape(row["model"]), f"{row['accounts']:,}", *amounts, *calls, *counts)
    return grid


def _account_grid(changed: pl.DataFrame) -> Grid:
    title = f"Accounts by model, the largest fall first ({_SHOWN} of {len(changed):,} at most)"
    names = ["model", "account", "collateral", "calibrated", "excess", "calibrated", "status"]
    grid = _grid(title, [*names, "calibrated"], left=("model", "account", "status"))
    fall = pl.col("collateral_value_after") - pl.col("collateral_value")
    for row in changed.sort(fall, maintain_order=True).head(_SHOWN).iter_rows(named=True):
        figures = ("collateral_value", "collateral_value_after", "excess", "excess_after")
        amounts = [_amount(row[name]) for name in figures]
        states = [row["status"] or "", row["status_after"] or ""]
        grid.add_row(escape(row["model"]), escape(row["account_id"]), *amounts, *states)
    return grid


def _grid(title: str, names: list[str], left: tuple[str, ...]) -> Grid:
    grid = Grid(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in names:
        text = name in left
        grid.add_column(name, justify="left" if text else "right", no_wrap=not text)
    return grid


def _print(grid: Grid) -> None:
    """As wide as it needs to be: a cut number is worse than a long line."""
    screen = Console()
    wide = screen.measure(grid, options=screen.options.update(max_width=1000)).maximum
    Console(width=max(screen.width, wide)).print(grid)


def _amount(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _counts(status: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in status.items())
