"""An independent and slow margin calculation: plain loops over plain rows.

Source of every definition here: the text of issue 2, section "What is computed". Nothing is taken
from the package under test, no array library does the arithmetic, and every sum is `math.fsum`, so
that the order of rows changes nothing. Rows are dicts with the issue's column names; a missing key
and None both mean the default. Rows must be valid: the caller removes bad ones first, though a
factor may lack dates in the history.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import pairwise
from math import ceil, erfc, exp, floor, fsum, inf, log, sqrt
from statistics import NormalDist
from typing import Any, Protocol, TypedDict

Row = Mapping[str, Any]
Prices = dict[str, dict[date, float]]  # factor -> date -> price
Returns = dict[str, list[float]]  # factor -> one return per date, oldest first
Covariance = dict[tuple[str, str], float]


class Figures(TypedDict):
    """The figures of one account, or of one netting set, under one model."""

    requirement: float
    standalone: float
    offset: float
    offset_ratio: float
    net_exposure: float
    gross_exposure: float
    positions: int
    worst_scenario: str | None


class GroupFigures(TypedDict):
    """The figures of one product group of one account under one model."""

    requirement: float
    positions: int


@dataclass
class Result:
    """All figures, keyed by account id, netting set, model name and product group.

    `contributions` and `groups` name only what has a non-zero net position. `losses` and
    `set_losses` hold the loss on each scenario date (simulation only): with them a test can accept
    another worst scenario whose loss is the same up to rounding. `stability` says how far, as a
    share of the positions' own sizes, the account is from a point where its contributions jump (a
    tie at the edge of the tail, a hedge that is exact): near 0 they are rounding noise.
    """

    accounts: dict[tuple[str, str], Figures] = field(default_factory=dict)
    sets: dict[tuple[str, str, str], Figures] = field(default_factory=dict)
    groups: dict[tuple[str, str, str], GroupFigures] = field(default_factory=dict)
    contributions: dict[tuple[str, str], dict[tuple[str, str], float]] = field(default_factory=dict)
    stability: dict[tuple[str, str], float] = field(default_factory=dict)
    losses: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    set_losses: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)


# ---------------------------------------------------------------- Black-76


def normal_cdf(x: float) -> float:
    """The normal distribution function; by erfc, which keeps its digits in the lower tail."""
    return 0.5 * erfc(-x / sqrt(2.0))


def _d1(forward: float, strike: float, deviation: float) -> float:
    return log(forward / strike) / deviation + deviation / 2.0


def black76(
    kind: str, forward: float, strike: float, years: float, vol: float, rate: float
) -> float:
    """Value of a European option on a forward; a forward of 0 is allowed.

    Source: issue 2, "Black-76 value", with its limits at volatility 0, time 0 and forward 0.
    """
    sign = 1.0 if kind == "call" else -1.0
    discount = exp(-rate * years)
    deviation = vol * sqrt(years)
    if deviation == 0.0 or forward == 0.0:
        return discount * max(sign * (forward - strike), 0.0)
    d1 = _d1(forward, strike, deviation)
    d2 = d1 - deviation
    return discount * sign * (forward * normal_cdf(sign * d1) - strike * normal_cdf(sign * d2))


def black76_delta(
    kind: str, forward: float, strike: float, years: float, vol: float, rate: float
) -> float:
    """d value / d forward; without volatility or time a step, halved at the strike.

    Source: issue 2, "delta = d value / d forward" and the sentence after it.
    """
    sign = 1.0 if kind == "call" else -1.0
    discount = exp(-rate * years)
    deviation = vol * sqrt(years)
    if deviation > 0.0:
        return sign * discount * normal_cdf(sign * _d1(forward, strike, deviation))
    if forward == strike:
        return sign * discount / 2.0
    return sign * discount if sign * (forward - strike) > 0.0 else 0.0


# ---------------------------------------------------------------- instruments


@dataclass(frozen=True)
class Instrument:
    """One instrument with every default filled in; `scale` is multiplier x FX rate."""

    id: str
    kind: str
    underlying: str
    group: str
    scale: float
    price: float
    forward: float
    strike: float
    years: float
    vol: float
    rate: float

    def is_option(self) -> bool:
        """Whether it is valued by Black-76 instead of its mark."""
        return self.kind in ("call", "put")

    def value_at(self, forward: float) -> float:
        """Black-76 value per unit at another forward, volatility and time unchanged."""
        return black76(self.kind, forward, self.strike, self.years, self.vol, self.rate)

    def exposure(self) -> float:
        """Exposure of one contract to the underlying, in the margin currency.

        Source: issue 2, "Unit exposure of an instrument".
        """
        if not self.is_option():
            return self.scale * self.price
        delta = black76_delta(self.kind, self.forward, self.strike, self.years, self.vol, self.rate)
        return self.scale * delta * self.forward

    def profit(self, change: float) -> float:
        """P&L of one contract when the underlying returns `change`, in the margin currency.

        Source: issue 2, "unit P&L per instrument and scenario by full revaluation".
        """
        if not self.is_option():
            return self.scale * self.price * change
        shocked = max(self.forward * (1.0 + change), 0.0)
        return self.scale * (self.value_at(shocked) - self.value_at(self.forward))


def as_date(value: date | str) -> date:
    """A date from a date, a datetime or ISO text."""
    if isinstance(value, datetime):
        return value.date()
    return value if isinstance(value, date) else date.fromisoformat(value)


def given(row: Row, column: str, default: Any) -> Any:
    """The row's value, or the default where the column is absent or None."""
    value = row.get(column)
    return default if value is None else value


def make_instrument(
    row: Row, valuation: date, prices: Prices, fx_rates: Mapping[str, float]
) -> Instrument:
    """Fill in the defaults of one instrument row."""
    underlying: str = row["underlying"]
    common = {
        "id": row["instrument_id"],
        "kind": row["kind"],
        "underlying": underlying,
        "group": given(row, "product_group", underlying),
        "scale": float(given(row, "multiplier", 1.0)) * fx_rates[row["currency"]],
    }
    if row["kind"] not in ("call", "put"):
        mark = float(row["price"])
        return Instrument(**common, price=mark, forward=0, strike=0, years=0, vol=0, rate=0)
    known = prices[underlying]
    return Instrument(
        **common,
        price=0.0,
        forward=float(given(row, "forward", known[max(known)])),
        strike=float(row["strike"]),
        years=(as_date(row["expiry"]) - valuation).days / 365.0,
        vol=float(row["implied_vol"]),
        rate=float(given(row, "rate", 0.0)),
    )


# ---------------------------------------------------------------- returns


def price_table(history: Iterable[Row], valuation: date) -> Prices:
    """The history by factor and date, without anything after the valuation date."""
    table: Prices = {}
    for row in history:
        day = as_date(row["date"])
        if day <= valuation:
            table.setdefault(row["factor"], {})[day] = float(row["price"])
    return table


def complete_dates(prices: Prices, factors: Sequence[str]) -> list[date]:
    """The dates, oldest first, on which every one of the factors has a price."""
    return sorted(set.intersection(*(set(prices[factor]) for factor in factors)))


def last_returns(
    prices: Prices, factors: Sequence[str], step: int, lookback: int
) -> tuple[list[date], Returns]:
    """The last `lookback` overlapping simple returns over `step` complete dates.

    Source: issue 2, "Returns are simple"; a window's date is its last day.
    """
    dates = complete_dates(prices, factors)
    windows = list(zip(dates, dates[step:], strict=False))
    if len(windows) < lookback:
        raise ValueError(f"{len(windows)} returns are too few for a lookback of {lookback}")
    windows = windows[len(windows) - lookback :]
    returns = {
        factor: [prices[factor][end] / prices[factor][start] - 1.0 for start, end in windows]
        for factor in factors
    }
    return [end for _, end in windows], returns


# ---------------------------------------------------------------- positions


@dataclass(frozen=True)
class Held:
    """A non-zero net position of one netting set."""

    netting_set: str
    instrument: Instrument
    quantity: float

    def exposure(self) -> float:
        """Its exposure in the margin currency."""
        return self.quantity * self.instrument.exposure()


Accounts = dict[str, dict[str, list[Held]]]  # account -> netting set -> positions


def net_positions(rows: Iterable[Row], book: Mapping[str, Instrument]) -> Accounts:
    """Net rows by (account, netting set, instrument); a set that nets to nothing stays, empty."""
    quantities: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        account = row["account_id"]
        key = (account, given(row, "netting_set", account), row["instrument_id"])
        quantities.setdefault(key, []).append(float(row["quantity"]))
    accounts: Accounts = {}
    for (account, netting_set, instrument_id), amounts in sorted(quantities.items()):
        held = accounts.setdefault(account, {}).setdefault(netting_set, [])
        net = fsum(amounts)
        if net != 0.0:
            held.append(Held(netting_set, book[instrument_id], net))
    return accounts


# ---------------------------------------------------------------- models


class Model(Protocol):
    """What a model answers about any list of positions that may offset each other."""

    def requirement(self, held: Sequence[Held]) -> float:
        """The requirement, never negative."""

    def contributions(self, held: Sequence[Held]) -> list[float]:
        """Euler contributions, one per position, adding up to the requirement."""

    def stability(self, held: Sequence[Held]) -> float:
        """See `Result.stability`."""

    def dated_losses(self, held: Sequence[Held]) -> dict[str, float]:
        """The loss on each scenario date, oldest first; empty where there are no scenarios."""


@dataclass(frozen=True)
class CovarianceModel:
    """Issue 2, `covariance`: z sqrt(x'Cx)."""

    z: float
    matrix: Covariance

    def _by_factor(self, held: Sequence[Held]) -> dict[str, float]:
        parts: dict[str, list[float]] = {}
        for position in held:
            parts.setdefault(position.instrument.underlying, []).append(position.exposure())
        return {factor: fsum(amounts) for factor, amounts in parts.items()}

    def _deviation(self, x: Mapping[str, float]) -> float:
        square = fsum(x[f] * self.matrix[f, g] * x[g] for f in x for g in x)
        return sqrt(max(square, 0.0))  # rounding can take a perfect hedge below zero

    def requirement(self, held: Sequence[Held]) -> float:
        """z sqrt(x'Cx), x the exposures by factor."""
        return max(self.z * self._deviation(self._by_factor(held)), 0.0)

    def contributions(self, held: Sequence[Held]) -> list[float]:
        """z x_i (Cx)_f / sqrt(x'Cx); zeros where the root is zero."""
        x = self._by_factor(held)
        deviation = self._deviation(x)
        if deviation == 0.0:
            return [0.0] * len(held)
        slope = {f: fsum(self.matrix[f, g] * x[g] for g in x) / deviation for f in x}
        return [self.z * p.exposure() * slope[p.instrument.underlying] for p in held]

    def stability(self, held: Sequence[Held]) -> float:
        """Requirement over standalone: where it is 0 the gradient does not exist."""
        own = fsum(self.requirement([position]) for position in held)
        return self.requirement(held) / own if own else inf

    def dated_losses(self, held: Sequence[Held]) -> dict[str, float]:
        """No scenarios, no losses."""
        return {}


def rank_weights(measure: Row, n: int) -> list[float]:
    """The weight of each of n losses in the measure, the worst loss first.

    Source: issue 2, `simulation`; m and k as there. The weights of hazen are those of numpy's
    quantile at the (0-based, ascending) place n x confidence - 1/2.
    """
    kind = measure["kind"]
    if kind == "worst":
        return [1.0] + [0.0] * (n - 1)
    tail = given(measure, "tail", "discrete")
    confidence: float = measure["confidence"]
    if tail == "hazen":
        if kind != "var":
            raise ValueError("hazen is defined for var only")
        return _hazen_weights(confidence, n)
    m = round((1.0 - confidence) * n, 9)
    k = max(1, ceil(m))
    if kind == "var":
        weights = [0.0] * (k - 1) + [1.0]
    elif tail == "fractional":
        weights = [1.0 / m] * (k - 1) + [(m - k + 1) / m]
    else:
        weights = [1.0 / k] * k
    return weights + [0.0] * (n - k)


def _hazen_weights(confidence: float, n: int) -> list[float]:
    place = min(max(n * confidence - 0.5, 0.0), n - 1.0)
    low = floor(place)
    ascending = [0.0] * n
    ascending[low] = 1.0 - (place - low)
    if place > low:
        ascending[low + 1] = place - low
    return ascending[::-1]


@dataclass(frozen=True)
class SimulationModel:
    """Issue 2, `simulation`: a measure of the losses over historical scenarios."""

    dates: list[date]
    profits: dict[str, list[float]]  # instrument id -> unit P&L per date
    measure: Row

    def _losses(self, held: Sequence[Held]) -> list[float]:
        rows = [(p.quantity, self.profits[p.instrument.id]) for p in held]
        return [fsum(-quantity * row[s] for quantity, row in rows) for s in range(len(self.dates))]

    def _ranked(self, losses: Sequence[float]) -> list[int]:
        # Worst first; of equal losses the earliest date counts as the worse.
        return sorted(range(len(losses)), key=lambda s: (-losses[s], s))

    def _raw(self, losses: Sequence[float]) -> float:
        if self.measure.get("tail") == "hazen":
            rank_weights(self.measure, len(losses))  # refuses es
            numpy = importlib.import_module("numpy")
            return float(numpy.quantile(losses, self.measure["confidence"], method="hazen"))
        weights = rank_weights(self.measure, len(losses))
        ranked = self._ranked(losses)
        return fsum(w * losses[s] for w, s in zip(weights, ranked, strict=True))

    def requirement(self, held: Sequence[Held]) -> float:
        """The measure of the summed losses, never negative."""
        return max(self._raw(self._losses(held)), 0.0)

    def contributions(self, held: Sequence[Held]) -> list[float]:
        """Each position's losses in the scenarios of the tail, weighted as the measure does.

        Zeros where the measure is negative: there the requirement is a constant 0.
        """
        losses = self._losses(held)
        if self._raw(losses) < 0.0:
            return [0.0] * len(held)
        weights = dict(
            zip(self._ranked(losses), rank_weights(self.measure, len(losses)), strict=True)
        )
        return [
            fsum(-p.quantity * self.profits[p.instrument.id][s] * w for s, w in weights.items())
            for p in held
        ]

    def stability(self, held: Sequence[Held]) -> float:
        """The nearest tie between scenarios of unequal weight, or the nearness of the floor."""
        losses = self._losses(held)
        sizes = [
            fsum(abs(p.quantity * self.profits[p.instrument.id][s]) for p in held)
            for s in range(len(losses))
        ]
        weights = rank_weights(self.measure, len(losses))
        gaps = [abs(self._raw(losses)) / max(sizes)] if max(sizes) else []
        for (a, b), (u, v) in zip(pairwise(self._ranked(losses)), pairwise(weights), strict=True):
            size = max(sizes[a], sizes[b])
            if u != v and size:
                gaps.append((losses[a] - losses[b]) / size)
        return min(gaps, default=inf)

    def dated_losses(self, held: Sequence[Held]) -> dict[str, float]:
        """The summed loss on each scenario date."""
        days = [day.isoformat() for day in self.dates]
        return dict(zip(days, self._losses(held), strict=True))


def covariance_matrix(estimator: Row, returns: Returns, days: int) -> Covariance:
    """The covariance over `days` days of uncentred daily returns.

    Source: issue 2, `sample`, `ewma`, `ledoit_wolf`.
    """
    n = len(next(iter(returns.values())))
    if estimator["kind"] == "ledoit_wolf":
        return _ledoit_wolf(returns, days)
    decay: float = estimator["decay"] if estimator["kind"] == "ewma" else 1.0
    weights = [decay ** (n - 1 - t) for t in range(n)]  # age 0 is the latest return
    total = fsum(weights)
    return {
        (f, g): days
        * fsum(w * a * b for w, a, b in zip(weights, returns[f], returns[g], strict=True))
        / total
        for f in returns
        for g in returns
    }


def _ledoit_wolf(returns: Returns, days: int) -> Covariance:
    """The one estimator that the issue defines by another library."""
    library = importlib.import_module("sklearn.covariance")
    numpy = importlib.import_module("numpy")
    rows = numpy.array(list(zip(*returns.values(), strict=True)))
    fitted = library.LedoitWolf(assume_centered=True).fit(rows).covariance_
    return {
        (f, g): days * float(fitted[i, j])
        for i, f in enumerate(returns)
        for j, g in enumerate(returns)
    }


def make_model(parameters: Row, book: Mapping[str, Instrument], prices: Prices) -> Model:
    """A model from its TOML table; its factors are those that any instrument refers to."""
    factors = sorted({instrument.underlying for instrument in book.values()})
    days: int = given(parameters, "horizon_days", 1)
    if parameters["kind"] == "covariance":
        _, returns = last_returns(prices, factors, 1, parameters["lookback"])
        matrix = covariance_matrix(parameters["estimator"], returns, days)
        return CovarianceModel(NormalDist().inv_cdf(parameters["confidence"]), matrix)
    overlapping = given(parameters, "horizon", "overlapping") == "overlapping"
    step, stretch = (days, 1.0) if overlapping else (1, sqrt(days))
    dates, returns = last_returns(prices, factors, step, parameters["scenarios"]["lookback"])
    profits = {
        instrument.id: [instrument.profit(stretch * r) for r in returns[instrument.underlying]]
        for instrument in book.values()
    }
    return SimulationModel(dates, profits, parameters["measure"])


# ---------------------------------------------------------------- accounts


def worst_date(losses: Mapping[str, float]) -> str | None:
    """The date of the largest loss, the earliest of equals; None without scenarios."""
    return max(losses, key=lambda day: losses[day]) if losses else None


def _offsets(standalone: float, requirement: float) -> tuple[float, float]:
    offset = standalone - requirement
    return offset, offset / standalone if standalone else 0.0


def set_figures(model: Model, held: Sequence[Held]) -> Figures:
    """The figures of one netting set."""
    requirement = model.requirement(held)
    standalone = fsum(model.requirement([position]) for position in held)
    offset, ratio = _offsets(standalone, requirement)
    return Figures(
        requirement=requirement,
        standalone=standalone,
        offset=offset,
        offset_ratio=ratio,
        net_exposure=fsum(position.exposure() for position in held),
        gross_exposure=fsum(abs(position.exposure()) for position in held),
        positions=len(held),
        worst_scenario=worst_date(model.dated_losses(held)),
    )


def account_figures(sets: Sequence[Figures], worst_scenario: str | None) -> Figures:
    """The sums over an account's netting sets, its ratio from those sums."""
    requirement = fsum(s["requirement"] for s in sets)
    standalone = fsum(s["standalone"] for s in sets)
    offset, ratio = _offsets(standalone, requirement)
    return Figures(
        requirement=requirement,
        standalone=standalone,
        offset=offset,
        offset_ratio=ratio,
        net_exposure=fsum(s["net_exposure"] for s in sets),
        gross_exposure=fsum(s["gross_exposure"] for s in sets),
        positions=sum(s["positions"] for s in sets),
        worst_scenario=worst_scenario,
    )


def group_figures(model: Model, sets: Iterable[Sequence[Held]]) -> dict[str, GroupFigures]:
    """Each product group alone: its requirement in each netting set, summed over the sets."""
    groups: dict[str, GroupFigures] = {}
    for held in sets:
        for group in {position.instrument.group for position in held}:
            members = [position for position in held if position.instrument.group == group]
            figures = groups.setdefault(group, GroupFigures(requirement=0.0, positions=0))
            figures["requirement"] += model.requirement(members)
            figures["positions"] += len(members)
    return groups


def add_account(
    result: Result, account: str, name: str, model: Model, sets: Mapping[str, Sequence[Held]]
) -> None:
    """Put everything that one model says about one account into the result."""
    contributions: dict[tuple[str, str], float] = {}
    for netting_set, held in sets.items():
        result.sets[account, netting_set, name] = set_figures(model, held)
        result.set_losses[account, netting_set, name] = model.dated_losses(held)
        for position, amount in zip(held, model.contributions(held), strict=True):
            contributions[netting_set, position.instrument.id] = amount
    everything = [position for held in sets.values() for position in held]
    losses = model.dated_losses(everything)
    result.losses[account, name] = losses
    result.accounts[account, name] = account_figures(
        [result.sets[account, netting_set, name] for netting_set in sets], worst_date(losses)
    )
    result.contributions[account, name] = contributions
    result.stability[account, name] = min(model.stability(held) for held in sets.values())
    for group, figures in group_figures(model, sets.values()).items():
        result.groups[account, name, group] = figures


def compute(
    config: Row,
    positions: Iterable[Row],
    instruments: Iterable[Row],
    history: Iterable[Row],
    fx: Iterable[Row] = (),
) -> Result:
    """Every figure of every account under every model of the config (the TOML as a dict)."""
    valuation = as_date(config["valuation_date"])
    prices = price_table(history, valuation)
    fx_rates = {row["currency"]: float(row["rate"]) for row in fx} | {config["currency"]: 1.0}
    book = {
        row["instrument_id"]: make_instrument(row, valuation, prices, fx_rates)
        for row in instruments
    }
    accounts = net_positions(positions, book)
    result = Result()
    for name, parameters in config["models"].items():
        model = make_model(parameters, book, prices)
        for account, sets in accounts.items():
            add_account(result, account, name, model, sets)
    return result
