"""Random but valid input tables of issue 2, full of limits: one seed, one case.

`random_case` makes rows as dicts and a config with a model for every estimator and every measure;
`write_case` puts them on disk as a user would. All rows are valid: bad input is another test's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from math import exp, sqrt
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

import polars as pl

Row = dict[str, Any]
T = TypeVar("T")

KINDS = ("spot", "future", "perpetual", "call", "put")
OPTIONS = ("call", "put")
CONFIDENCES = (0.9, 0.95, 0.97, 0.975, 0.99, 0.994, 0.995)
ESTIMATORS = ("sample", "ewma", "ledoit_wolf")
MEASURES: tuple[tuple[str, str | None], ...] = (
    ("var", "discrete"),
    ("var", "fractional"),
    ("var", "hazen"),
    ("es", "discrete"),
    ("es", "fractional"),
    ("worst", None),
)
FX = {"USD": 1.0, "EUR": 1.1375, "JPY": 0.0091, "GBP": 1.27, "KRW": 0.00089}
SCHEMAS: dict[str, dict[str, type[pl.DataType]]] = {
    "positions": {
        "account_id": pl.String,
        "instrument_id": pl.String,
        "quantity": pl.Float64,
        "netting_set": pl.String,
    },
    "instruments": {
        "instrument_id": pl.String,
        "kind": pl.String,
        "underlying": pl.String,
        "currency": pl.String,
        "multiplier": pl.Float64,
        "price": pl.Float64,
        "product_group": pl.String,
        "strike": pl.Float64,
        "expiry": pl.Date,
        "implied_vol": pl.Float64,
        "forward": pl.Float64,
        "rate": pl.Float64,
    },
    "history": {"date": pl.Date, "factor": pl.String, "price": pl.Float64},
    "fx": {"currency": pl.String, "rate": pl.Float64},
}
OPTIONAL = (
    *("netting_set", "multiplier", "product_group"),
    *("strike", "expiry", "implied_vol", "forward", "rate"),
)


@dataclass(frozen=True)
class Case:
    """Valid tables and their config; `keep_empty` writes optional columns that hold no value."""

    seed: int
    config: Row
    positions: list[Row]
    instruments: list[Row]
    history: list[Row]
    fx: list[Row] = field(default_factory=list)
    keep_empty: bool = False


# ---------------------------------------------------------------- history


def _business_days(start: date, count: int) -> list[date]:
    days: list[date] = []
    while len(days) < count:
        if start.weekday() < 5:
            days.append(start)
        start += timedelta(days=1)
    return days


def _random_walks(rng: Random, names: list[str], count: int) -> dict[str, list[float]]:
    """Correlated walks; some in whole ticks (many equal returns), some with a crash."""
    common = [rng.gauss(0.0, 1.0) for _ in range(count)]
    correlation = rng.choice([-0.8, 0.0, 0.5, 0.95])
    walks: dict[str, list[float]] = {}
    for name in names:
        price = exp(rng.uniform(-3.0, 8.0))
        daily = rng.choice([0.002, 0.01, 0.04])
        tick = price / 50.0 if rng.random() < 0.2 else 0.0
        crash = rng.randrange(count) if rng.random() < 0.3 else -1
        walk: list[float] = []
        for day, shared in enumerate(common):
            noise = correlation * shared + sqrt(1 - correlation**2) * rng.gauss(0.0, 1.0)
            # A day of -55% makes sqrt_time returns below -1: a shocked forward of 0.
            price *= 0.45 if day == crash else max(1.0 + daily * noise, 0.5)
            walk.append(max(round(price / tick), 1) * tick if tick else price)
        walks[name] = walk
    return walks


def _history(rng: Random, factors: list[str], count: int, later: int) -> tuple[date, list[Row]]:
    """The valuation date and the long table, `later` days of which lie after that date."""
    days = _business_days(date(2015, 1, 1) + timedelta(days=rng.randrange(2000)), count + later)
    valuation = days[count - 1]
    unused = ["UNUSED"] if rng.random() < 0.5 else []
    rows: list[Row] = []
    for name, walk in _random_walks(rng, factors + unused, len(days)).items():
        gaps = 0.5 if name == "UNUSED" else rng.choice([0.0, 0.0, 0.01, 0.03])
        misses_last = rng.random() < 0.15  # its own last price is then older than the others'
        for day, price in zip(days, walk, strict=True):
            if rng.random() < gaps or (misses_last and day == valuation):
                continue
            # Whoever looks into the future sees prices that are plainly wrong.
            rows.append(
                {"date": day, "factor": name, "price": price if day <= valuation else 3 * price}
            )
    if valuation.weekday() == 4 and rng.random() < 0.5:
        valuation += timedelta(days=1)
    return valuation, rows


def _last_prices(history: list[Row], valuation: date) -> dict[str, float]:
    known = [row for row in history if row["date"] <= valuation]
    return {r["factor"]: r["price"] for r in sorted(known, key=lambda r: r["date"])}


def _complete_count(history: list[Row], factors: set[str], valuation: date) -> int:
    """How many dates up to the valuation date have a price of every one of the factors."""
    dates: dict[date, set[str]] = {}
    for row in history:
        if row["date"] <= valuation and row["factor"] in factors:
            dates.setdefault(row["date"], set()).add(row["factor"])
    return sum(found == factors for found in dates.values())


# ---------------------------------------------------------------- instruments


def _linear_terms(rng: Random, kind: str, last: float) -> Row:
    price = last * exp(rng.gauss(0.0, 0.02))
    if kind == "future" and rng.random() < 0.15:
        price = -price
    return {"price": price}


def _option_terms(rng: Random, last: float, valuation: date) -> Row:
    """Strike, expiry, volatility and the optional columns of an option, limits included."""
    forward = last * exp(rng.gauss(0.0, 0.1)) if rng.random() < 0.4 else None
    base = last if forward is None else forward
    moneyness = rng.choice([1.0, exp(rng.gauss(0.0, 0.05)), exp(rng.gauss(0.0, 0.2)), 0.1, 8.0])
    days = rng.choice([0, 1, rng.randint(2, 60), rng.randint(61, 900), 7300])
    vol = rng.choice([0.0, rng.uniform(0.01, 0.1), rng.uniform(0.1, 0.6), 2.5])
    return {
        "price": rng.choice([None, last]),  # unused
        "strike": base * moneyness,
        "expiry": valuation + timedelta(days=days),
        "implied_vol": vol,
        "forward": forward,
        "rate": rng.choice([None, 0.0, 0.03, -0.01]),
    }


def _instruments(
    rng: Random, last: dict[str, float], currencies: list[str], valuation: date, count: int
) -> list[Row]:
    """Every kind in turn, so that five instruments cover them all."""
    factors = sorted(set(last) - {"UNUSED"})
    default_groups = rng.random() < 0.25
    kinds = rng.sample(KINDS, len(KINDS))
    rows: list[Row] = []
    for number in range(count):
        kind = kinds[number] if number < len(kinds) else rng.choice(KINDS)
        factor = rng.choice(factors)
        terms = (
            _option_terms(rng, last[factor], valuation)
            if kind in OPTIONS
            else _linear_terms(rng, kind, last[factor])
        )
        rows.append(
            {
                "instrument_id": f"{factor}-{kind}-{number}",
                "kind": kind,
                "underlying": factor,
                "currency": rng.choice(currencies),
                "multiplier": rng.choice([None, 1.0, 0.001, 0.1, 50.0, 1000.0]),
                "product_group": None if default_groups else rng.choice([None, "equity", "oil"]),
                **dict.fromkeys(("strike", "expiry", "implied_vol", "forward", "rate")),
                **terms,
            }
        )
    return rows


# ---------------------------------------------------------------- positions

Trade = tuple[str, float, str | None]  # instrument id, quantity, netting set


def _quantity(rng: Random) -> float:
    size = rng.choice(
        [*[float(rng.randint(1, 500))] * 6, rng.uniform(0.01, 10.0), 1e-6, 3e-4, 1e7, 1e12]
    )
    return rng.choice([-1, 1]) * size


def _single(rng: Random, ids: list[str]) -> list[Trade]:
    return [(rng.choice(ids), _quantity(rng), None)]


def _short(rng: Random, ids: list[str]) -> list[Trade]:
    return [(i, -abs(_quantity(rng)), None) for i in _some(rng, ids)]


def _mixed(rng: Random, ids: list[str]) -> list[Trade]:
    return [(i, _quantity(rng), None) for i in _some(rng, ids)]


def _flat(rng: Random, ids: list[str]) -> list[Trade]:
    """Nothing left after netting, exactly and in any order of adding."""
    trades: list[Trade] = []
    for instrument in _some(rng, ids):
        q = _quantity(rng)
        parts = rng.choice([[q, -q], [q, q, -2 * q], [0.0]])
        trades += [(instrument, part, None) for part in parts]
    return trades


def _duplicated(rng: Random, ids: list[str]) -> list[Trade]:
    """Rows that are to be netted, some of them to exactly zero."""
    trades = _mixed(rng, ids)
    for instrument, q, _ in _some(rng, trades):
        trades.append((instrument, rng.choice([-1.0, 1.0, -0.5, 3.0]) * q, None))
    return trades


def _several_sets(rng: Random, ids: list[str]) -> list[Trade]:
    """Opposite positions in different sets, which must not offset; one set nets to nothing."""
    trades: list[Trade] = [(i, _quantity(rng), "house") for i in _some(rng, ids)]
    trades += [(i, -q, rng.choice(["client", None])) for i, q, _ in trades]
    trades += [(i, _quantity(rng), rng.choice(["house", "client"])) for i in _some(rng, ids)]
    if rng.random() < 0.5:
        trades += [(ids[0], 7.0, "empty"), (ids[0], -7.0, "empty")]
    return trades


def _some(rng: Random, items: list[T]) -> list[T]:
    return rng.sample(items, rng.randint(1, len(items)))


ACCOUNT_KINDS = (_mixed, _single, _several_sets, _short, _duplicated, _flat)


def _positions(rng: Random, instruments: list[Row], count: int) -> list[Row]:
    ids = [row["instrument_id"] for row in instruments]
    # Text that looks like a number must stay text: 007 is not 7.
    name = rng.choice(["{:03d}", "{}", "Kónto, {}", "account-{:02d}"])
    rows: list[Row] = []
    first = rng.randrange(len(ACCOUNT_KINDS))
    for number in range(count):
        make = ACCOUNT_KINDS[(first + number) % len(ACCOUNT_KINDS)]
        account = name.format(number)
        rows += [
            {"account_id": account, "instrument_id": i, "quantity": q, "netting_set": s}
            for i, q, s in make(rng, ids)
        ]
    return rows


# ---------------------------------------------------------------- models


def _lookback(rng: Random, available: int, confidence: float) -> int:
    """A window that fits, half of the time one with an integer (1 - confidence) x window."""
    whole = [n for n in range(10, available + 1) if round((1 - confidence) * n, 9) % 1 == 0]
    choice = rng.random()
    if whole and choice < 0.5:
        return rng.choice(whole)
    return available if choice < 0.7 else rng.randint(10, available)


def _optional(rng: Random, key: str, value: Any, default: Any) -> Row:
    """The setting, left out half of the time where it equals its default."""
    return {} if value == default and rng.random() < 0.5 else {key: value}


def _covariance_model(rng: Random, estimator: str, dates: int) -> Row:
    confidence = rng.choice(CONFIDENCES)
    decay = {"decay": rng.choice([0.9, 0.94, 0.97, 0.999])} if estimator == "ewma" else {}
    return {
        "kind": "covariance",
        "confidence": confidence,
        **_optional(rng, "horizon_days", rng.choice([1, 2, 5, 10]), 1),
        "estimator": {"kind": estimator, **decay},
        "lookback": _lookback(rng, dates - 1, confidence),
    }


def _simulation_model(rng: Random, kind: str, tail: str | None, horizon: str, dates: int) -> Row:
    confidence = rng.choice(CONFIDENCES)
    days = rng.choice([1, 1, 2, 3, 5, 10])
    measure: Row = {"kind": kind}
    if tail is not None:
        measure |= {"confidence": confidence, **_optional(rng, "tail", tail, "discrete")}
    available = dates - (days if horizon == "overlapping" else 1)
    lookback = _lookback(rng, available, confidence)
    return {
        "kind": "simulation",
        "scenarios": {"kind": "historical", "lookback": lookback},
        **_optional(rng, "horizon_days", days, 1),
        **_optional(rng, "horizon", horizon, "overlapping"),
        "measure": measure,
    }


def _models(rng: Random, dates: int) -> dict[str, Row]:
    """One model per estimator and one per measure, the two horizons in turn."""
    models = {f"cov_{name}": _covariance_model(rng, name, dates) for name in ESTIMATORS}
    horizons = ["overlapping", "sqrt_time"] * len(MEASURES)
    first = rng.randrange(2)
    for (kind, tail), horizon in zip(MEASURES, horizons[first:], strict=False):
        name = f"sim_{kind}" if tail is None else f"sim_{kind}_{tail}"
        models[name] = _simulation_model(rng, kind, tail, horizon, dates)
    return models


# ---------------------------------------------------------------- the case


def random_case(seed: int, max_instruments: int = 40, max_accounts: int = 15) -> Case:
    """A valid case from a seed: the same seed gives the same case.

    1-6 factors, 60-400 business days (now and then 520, so that 0.994 of 500 occurs) before the
    valuation date, 3 to `max_instruments` instruments, 1 to `max_accounts` accounts, 9 models.
    """
    rng = Random(seed)
    factors = [f"F{n}" for n in range(rng.randint(1, 6))]
    days = 520 if rng.random() < 0.1 else rng.randint(60, 400)
    valuation, history = _history(rng, factors, days, rng.choice([0, 5, 20]))
    currency, *others = rng.sample(sorted(FX), rng.randint(1, 4))
    instruments = _instruments(
        rng,
        _last_prices(history, valuation),
        [currency, *others],
        valuation,
        rng.randint(3, max_instruments),
    )
    positions = _positions(rng, instruments, rng.randint(1, max_accounts))
    used = {row["underlying"] for row in instruments}
    models = _models(rng, _complete_count(history, used, valuation))
    if rng.random() < 0.5:
        for rows in (positions, instruments, history):
            rng.shuffle(rows)
    return Case(
        seed=seed,
        config={"valuation_date": valuation, "currency": currency, "models": models},
        positions=positions,
        instruments=instruments,
        history=history,
        fx=[{"currency": other, "rate": FX[other] / FX[currency]} for other in others],
        keep_empty=rng.random() < 0.5,
    )


# ---------------------------------------------------------------- on disk


def _frame(name: str, rows: list[Row], keep_empty: bool) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=SCHEMAS[name])
    empty = [c for c in OPTIONAL if c in frame.columns and frame[c].null_count() == len(rows)]
    return frame if keep_empty else frame.drop(empty)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, date) else repr(value)


def _toml(config: Row) -> str:
    tables = {"inputs": config["inputs"]}
    tables |= {f"models.{name}": model for name, model in config["models"].items()}
    lines = [f"{key} = {_toml_value(config[key])}" for key in ("valuation_date", "currency")]
    for title, table in tables.items():
        lines += ["", f"[{title}]"]
        lines += [f"{key} = {_toml_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def with_inputs(case: Case, form: Literal["csv", "parquet"]) -> Case:
    """The case whose config names the files that `write_case` writes."""
    names = ["positions", "instruments", "history", *(["fx"] if case.fx else [])]
    return replace(case, config=case.config | {"inputs": {n: f"{n}.{form}" for n in names}})


def write_case(case: Case, folder: Path, form: Literal["csv", "parquet"]) -> Path:
    """Write the tables and the TOML into the folder (made if absent); the TOML's path."""
    folder.mkdir(parents=True, exist_ok=True)
    config = with_inputs(case, form).config
    for name, file in config["inputs"].items():
        frame = _frame(name, getattr(case, name), case.keep_empty)
        if form == "csv":
            frame.write_csv(folder / file)
        else:
            frame.write_parquet(folder / file)
    path = folder / "config.toml"
    path.write_text(_toml(config), encoding="utf-8")
    return path
