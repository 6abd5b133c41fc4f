"""SIMM of a CRIF from files to tables: the margin, what trades or a version would change, and why.

SIMM is (c) International Swaps and Derivatives Association; commercial use needs its licence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.crif import Crif
from gpu_margin.devices import Device
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.io.crif import read_crif
from gpu_margin.io.market_tables import FX_COLUMNS, fx_rates
from gpu_margin.io.tables import Source, read_table
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.calculation import Parameters
from gpu_margin.simm_comparison import compared_levels, compared_totals
from gpu_margin.simm_whatif import Changed, changed
from gpu_margin.simm_work import Answered, Margined, Work
from gpu_margin.tiling import Clock, Progress

# What amounts and so all margins are in, before they are converted.
_OWN = "USD"
_TABLES = ("levels", "totals", "contributions", "trade_contributions", "changes", "trades")
_MONEY = ("initial_margin", "before", "after", "change", "incremental_margin", "contribution")


@dataclass(frozen=True)
class Comparison:
    """Two versions side by side; change is after less before, change_percent of before.

    `levels`: portfolio_id, side, product_class, risk_class, margin_type, before, after, change,
    change_percent. `totals`: portfolio_id, side, regulation_before, regulation_after, the same
    figures and complete; the largest changes first.
    """

    before: str
    after: str
    currency: str
    levels: pl.DataFrame
    totals: pl.DataFrame


@dataclass(frozen=True)
class SimmRun:
    """Initial margin of every portfolio of a CRIF, in the result currency `currency`.

    `levels`: portfolio_id, side, regulation, product_class, risk_class, margin_type, bucket,
    initial_margin; `All` where a level is aggregated; the total has only `All`. Levels of 0 are
    left out. `totals`: portfolio_id, side, regulation, initial_margin, complete. A margin is null
    where all rows of the portfolio failed. `failures`: reason, source, row, field, value.

    With attribution, `contributions` (by risk factor) and `trade_contributions` add up to the
    totals. With trades added or removed all of these are after the change; `changes`
    (portfolio_id, side, before, after, change, complete) is of all portfolios, `trades`
    (portfolio_id, trade_id, what, side, before, after, incremental_margin, complete) of every
    trade by itself. `manifest` says what was computed from what.
    """

    version: str
    horizon: str
    currency: str
    levels: pl.DataFrame
    totals: pl.DataFrame
    failures: pl.DataFrame
    manifest: dict[str, Any]
    contributions: pl.DataFrame | None = None
    trade_contributions: pl.DataFrame | None = None
    changes: pl.DataFrame | None = None
    trades: pl.DataFrame | None = None
    comparison: Comparison | None = None

    def of(self, portfolio: str) -> SimmRun:
        """The same of one portfolio; the failures are all of them."""
        own = {name: _only(getattr(self, name), portfolio) for name in _TABLES}
        compared = self.comparison
        if compared is not None:
            levels, totals = (_only(one, portfolio) for one in (compared.levels, compared.totals))
            compared = replace(compared, levels=levels, totals=totals)
        return replace(self, **own, comparison=compared)


def _only(table: Any, portfolio: str) -> Any:
    return None if table is None else table.filter(pl.col("portfolio_id") == portfolio)


def simm(
    sources: Source | Sequence[Source],
    *,
    version: str = tables.LATEST,
    horizon: str = "10d",
    side: str = "both",
    calculation_currency: str = _OWN,
    result_currency: str = _OWN,
    fx: Source | None = None,
    add: Source | Sequence[Source] | None = None,
    remove: Sequence[str] = (),
    against: str | None = None,
    attribution: bool = False,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
) -> SimmRun:
    """SIMM and Schedule IM of CRIF files or frames.

    `side` is call, post or both; `fx` a table (currency, rate: USD for one unit), needed for rows
    without AmountUSD and for a result currency other than USD. `add` are CRIFs of further trades,
    `remove` trade ids all of whose rows go, in whatever portfolio; see `SimmRun`. `against` is
    another version, to be compared with this one. Bad rows are in the result's `failures`.

    Raises `ConfigError` for a wrong setting, a missing file or rate or a trade that is not there,
    and `BackendUnavailable` where the backend cannot run.
    """
    given = {"horizon": horizon, "side": side, "calculation_currency": calculation_currency}
    parameters = _parameters(version=version, **given)
    other = None if against is None else _parameters(version=against, **given)
    rate = _Rate.read(result_currency, fx)
    removed = [remove] if isinstance(remove, str) else list(remove)
    device = Device(backends.load(backend) if isinstance(backend, str) else backend)
    work = Work(device, progress or (lambda stage, done, total: None), Clock())
    inputs = {"crif": sources, "add": add, "fx": fx}
    with work.clock.timed("read"):
        change = _read(inputs, removed, attribution, work)
    crif = change.after
    margined = work.margined(crif, parameters, attribution)
    asked = add is not None or bool(removed)
    answered = work.answered(change, parameters, margined) if asked else None
    beside = None if other is None else work.margined(crif, other)
    run = _run(parameters, rate, crif, margined, answered, beside, other)
    settings = {**parameters.model_dump(), "against": other.version if other else None}
    named = {name: _names(source) for name, source in inputs.items()}
    question = {"inputs": named, "removed": removed, **vars(rate)}
    facts = {**settings, **question, **_facts(crif, run, work)}
    run.manifest.update(facts)
    return run


def compare(
    sources: Source | Sequence[Source], before: str, after: str, **options: Any
) -> Comparison:
    """What another version would do to the margin; takes the options of `simm`."""
    found = simm(sources, version=before, against=after, **options).comparison
    assert found is not None
    return found


@dataclass(frozen=True)
class _Rate:
    """The result currency, and how many USD one unit of it is."""

    result_currency: str
    usd_per_unit: float

    @staticmethod
    def read(currency: str, fx: Source | None) -> _Rate:
        """By the fx table; `ConfigError` where it has no rate."""
        name = currency.upper()
        if not re.fullmatch("[A-Z]{3}", name):
            raise ConfigError(f"result currency {currency!r}: write its three letters, as USD")
        if name == _OWN:
            return _Rate(name, 1.0)
        what = f"rate of {name} to USD: give an fx table (currency, rate) with a row {name}"
        if fx is None:
            raise ConfigError(f"result currency {name}: there is no {what}")
        rates, _ = fx_rates(read_table(fx, "fx", FX_COLUMNS), _OWN)
        found = rates.filter(pl.col("currency").str.to_uppercase() == name)["fx"].to_list()
        if len(found) != 1:
            raise ConfigError(f"result currency {name}: the fx table has no good {what}")
        return _Rate(name, found[0])

    def of(self, table: pl.DataFrame | None) -> pl.DataFrame | None:
        """A table in USD in the result currency."""
        return None if table is None else self.converted(table)

    def converted(self, table: pl.DataFrame) -> pl.DataFrame:
        """The same of a table that is there."""
        if self.usd_per_unit == 1.0:
            return table
        money = [name for name in _MONEY if name in table.columns]
        return table.with_columns(pl.col(money) / self.usd_per_unit)


def _parameters(version: str, **given: str) -> Parameters:
    """Settings with the version's own name; `ConfigError` for a wrong one."""
    try:
        return Parameters.model_validate({"version": tables.load(version).version, **given})
    except ValidationError as error:
        lines = [
            f"{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')} "
            f"(given: {fault['input']!r})"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines).replace("_", " ")) from error


def _read(inputs: dict[str, Any], removed: list[str], attribution: bool, work: Work) -> Changed:
    """The CRIF and what trades change in it; trades are read where they matter."""
    add, fx = inputs["add"], inputs["fx"]
    trades = attribution or add is not None or bool(removed)

    def one(source: Any) -> Crif:
        return read_crif(source, fx=fx, progress=work.report, trades=trades)

    base = one(inputs["crif"])
    if add is None:
        return changed(base, None, removed)
    added, told = one(add), base.failures  # those of the fx table have been told
    more = added.failures.join(told, on=told.columns, how="anti", nulls_equal=True)
    return changed(base, replace(added, failures=more), removed)


def _run(
    parameters: Parameters,
    rate: _Rate,
    crif: Crif,
    margined: Margined,
    answered: Answered | None,
    beside: Margined | None,
    other: Parameters | None,
) -> SimmRun:
    """The tables in the result currency."""
    contributions, by_trade = margined.contributions or (None, None)
    failures = [one.failures for one in (margined, answered, beside) if one is not None]
    found = join_failures(failures).unique(maintain_order=True)
    return SimmRun(
        version=parameters.version,
        horizon=parameters.horizon,
        currency=rate.result_currency,
        levels=rate.converted(margined.levels),
        totals=rate.converted(margined.totals),
        failures=join_failures([crif.failures, found]),
        manifest={},
        contributions=rate.of(contributions),
        trade_contributions=rate.of(by_trade),
        changes=None if answered is None else rate.of(answered.changes),
        trades=None if answered is None else rate.of(answered.trades),
        comparison=None
        if beside is None or other is None
        else Comparison(
            parameters.version,
            other.version,
            rate.result_currency,
            rate.converted(compared_levels(margined.levels, beside.levels)),
            rate.converted(compared_totals(margined.totals, beside.totals)),
        ),
    )


def _facts(crif: Crif, run: SimmRun, work: Work) -> dict[str, Any]:
    """What was computed, on what, in what time."""
    shards = "; ".join(shard.describe() for shard in work.device.shards)
    return {
        "gpu_margin": version_of("gpu-margin"),
        "effective_date": tables.load(run.version).effective_date.isoformat(),
        "backend": {"name": work.device.backend.name, "device": shards},
        "lost_backends": work.device.lost,
        "counts": {
            "portfolios": len(crif.portfolios),
            "incomplete_portfolios": int((~_by_portfolio(run)).sum()),
            "rows": len(crif),
            "failures": len(run.failures),
        },
        "seconds": work.clock.seconds,
    }


def _by_portfolio(run: SimmRun) -> pl.Series:
    """Whether each portfolio is complete."""
    return run.totals.unique("portfolio_id")["complete"]


def _names(source: Any) -> list[str]:
    """What inputs are called: paths, or "frame"."""
    if source is None:
        return []
    several = isinstance(source, (list, tuple))
    return [
        str(one) if isinstance(one, (str, Path)) else "frame"
        for one in (source if several else [source])
    ]
