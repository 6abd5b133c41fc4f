"""The joint rulebook: by hand, at its limits, and through whole runs."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import joint_oracle
import numpy as np
import polars as pl
import pytest
import small_case
from hand_market import portfolio_of, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_case import (
    NUMPY,
    alternating,
    amounts,
    market_of,
    model,
    spots,
    straddle,
    stress_text,
    walks,
)
from joint_oracle import Contract
from test_whatif import loaded as loaded_case
from typer.testing import CliRunner

import gpu_margin
from gpu_margin.engine import prepare
from gpu_margin.explain import explain
from gpu_margin.failures import ConfigError
from gpu_margin.gate import GateParameters, GateState, Order, decide, gate_market
from gpu_margin.joint_grid import GridParameters, cells_of, grid_pnl
from gpu_margin.joint_signs import directions, resolved
from gpu_margin.joint_terms import joint_terms
from gpu_margin.live import LiveBook
from gpu_margin.loading import load_book
from gpu_margin.models import joint
from gpu_margin.models.joint import Parameters
from gpu_margin.records import Record
from gpu_margin.throttle import MarkState
from gpu_margin.whatif import WhatIf

# ---------------------------------------------------------------- by hand


def test_long_and_short_by_hand() -> None:
    """Two coins that move alike by 1%: 1800 long against 1800 short, m = (-1800, 1800)."""
    market = market_of(spots("AB"), alternating("AB", 0.01))
    found = model(market, estimator={"kind": "sample"}).figures(rows_of({0: 100.0, 1: -100.0}))
    want = {
        "expected_shortfall": 0.0,
        "grid_base": 0.0,  # correlation 1
        "grid_less": math.sqrt(0.25 * 2 * 1800.0**2),
        "grid_more": math.sqrt(0.25 * 3600.0**2),
        "gross_grid": 3600.0,
        "offset_bound": 0.2 * 3600.0 + 0.8 * 1800.0,
        "requirement": 2160.0,
    }
    assert {name: value[0] for name, value in found.items()} == pytest.approx(want, abs=1e-4)


def test_both_long_add_up() -> None:
    market = market_of(spots("AB"), alternating("AB", 0.01))
    assert amounts(model(market), {0: 100.0, 1: 100.0}) == pytest.approx([3600.0], rel=1e-12)


def test_what_cannot_offset_is_the_sum_and_not_a_bit_more() -> None:
    """Roots of shares of the whole, which rounding may make larger than it."""
    names = "ABCDEFGHIJKL"
    market = market_of(spots(names), alternating(names, 0.15))
    sizes = np.random.default_rng(11).uniform(0.1, 9.0, (500, 12))
    rows = rows_of(*(dict(enumerate(size)) for size in sizes.tolist()))
    for theta in (0.0, 0.1, 0.3, 0.7):
        found = model(market, theta=theta, estimator={"kind": "sample"}).figures(rows)
        assert np.all(found["grid_more"] <= found["gross_grid"])
        assert found["requirement"] == pytest.approx(sizes.sum(axis=1) * 18.0, rel=1e-9)


def test_against_each_other_long_and_long_offset() -> None:
    """Correlation -1: what is long in both is hedged, what is long and short is not."""
    market = market_of(spots("AB"), alternating("AB", 0.01, same=False))
    hedged, open_one = amounts(model(market), {0: 1.0, 1: 1.0}, {0: 1.0, 1: -1.0})
    assert hedged == pytest.approx(21.6, rel=1e-3)
    assert open_one == pytest.approx(36.0, rel=1e-12)


def test_a_crash_in_the_window_is_the_requirement() -> None:
    """B falls by half on one day: E is above all that the grid says, and is not added to."""
    prices = alternating("AB", 0.01)
    prices["B"][20:] = [price / 2.0 for price in prices["B"][20:]]
    market = market_of(spots("AB"), prices)
    prepared = model(market)
    (loss,) = amounts(prepared, {0: -1.0, 1: 1.0})
    figures = prepared.figures(rows_of({0: -1.0, 1: 1.0}))
    assert loss == figures["expected_shortfall"][0] > 45.0 > figures["gross_grid"][0]
    required = prepared.require(rows_of({0: -1.0, 1: 1.0}))
    assert {name: part[0] for name, part in required.components.items()} == {
        "expected_shortfall": loss,
        "correlated_grid": 0.0,
        "offset_floor": 0.0,
    }
    assert prepared.unit.scenarios[required.worst[0]] == market.history.dates[20].isoformat()


def test_the_sign_is_that_of_the_price_move() -> None:
    market = market_of([*spots("AB"), *straddle("C")], walks(np.random.default_rng(1), "ABC"))
    losses = model(market).grid_losses(rows_of({0: 2.0, 1: -3.0}, {2: -1.0, 3: -1.0}, {}))
    assert losses.offsets.tolist() == [0, 2, 3, 3]
    assert losses.sign.tolist() == [-1.0, 1.0, 1.0]  # short straddle: up, on a lognormal
    assert losses.loss[:2] == pytest.approx([36.0, 54.0])


# ---------------------------------------------------------------- losses without a direction


def test_a_loss_of_volatility_only_adds_to_the_rest() -> None:
    """A long straddle loses most where nothing moves: its sign follows the other coin's."""
    market = market_of([*spots("A"), *straddle("B")], alternating("AB", 0.01))
    rows = rows_of({0: 10.0, 1: 1.0, 2: 1.0}, {0: -10.0, 1: 1.0, 2: 1.0}, {1: 1.0, 2: 1.0})
    losses = model(market).grid_losses(rows)
    assert losses.sign.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    found = model(market, offset_cap=1.0, theta=0.0).figures(rows)
    assert found["grid_base"] == pytest.approx(found["gross_grid"], rel=1e-9)
    against = market_of([*spots("A"), *straddle("B")], alternating("AB", 0.01, same=False))
    assert model(against).grid_losses(rows).sign.tolist() == [-1.0, 1.0, 1.0, -1.0, 1.0]


def test_a_tie_has_no_direction() -> None:
    """At volatility 0 a short straddle loses 18% either way."""
    market = market_of([*spots("A"), *straddle("B", 0.0)], alternating("AB", 0.01))
    rows = rows_of({0: 10.0, 1: -1.0, 2: -1.0}, {0: -10.0, 1: -1.0, 2: -1.0})
    assert model(market).grid_losses(rows).sign.tolist() == [-1.0, -1.0, 1.0, 1.0]


def test_two_short_straddles_may_lie_on_opposite_sides() -> None:
    """What an exact tie alone cannot see; `two_sided` can."""
    legs = [*straddle("A"), *straddle("B")]
    legs[2:] = [Contract(c.kind, "B", 1.0, 100.0, 104.0, 0.6, 30 / 365) for c in legs[2:]]
    market = market_of(legs, alternating("AB", 0.01))
    rows = rows_of(dict.fromkeys(range(4), -1.0))
    narrow, wide = model(market), model(market, two_sided=0.5)
    assert narrow.grid_losses(rows).sign.tolist() == [1.0, -1.0]
    assert narrow.figures(rows)["grid_base"][0] < 0.5 * narrow.figures(rows)["gross_grid"][0]
    assert wide.grid_losses(rows).sign.tolist() == [1.0, 1.0]
    assert wide.require(rows).amount == pytest.approx(wide.figures(rows)["gross_grid"], rel=1e-9)


@pytest.mark.parametrize(
    ("still", "falling", "rising", "want"),
    [
        (0.0, 3.0, 1.0, -1.0),
        (0.0, 1.0, 3.0, 1.0),
        (3.0, 3.0, 1.0, 0.0),
        (4.0, 3.0, 1.0, 0.0),
        (0.0, 3.0, 3.0, 0.0),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 3.0, -3.0, -1.0),
    ],
)
def test_directions(still: float, falling: float, rising: float, want: float) -> None:
    found = directions(np.array([still]), np.array([falling]), np.array([rising]), 1.0)
    assert found.tolist() == [want]


def test_directions_of_losses_both_ways() -> None:
    still, falling, rising = np.zeros(2), np.array([4.0, 4.0]), np.array([3.0, 3.5])
    assert directions(still, falling, rising, 0.8).tolist() == [-1.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_what_has_no_direction_never_offsets(seed: int) -> None:
    """Whatever is given one adds to the form that the others have without it."""
    rng = np.random.default_rng(seed)
    size, width = rng.integers(0, 6, 20), 6
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    column = np.concatenate([np.sort(rng.permutation(width)[:n]) for n in size]).astype(np.int64)
    sign = rng.choice([-1.0, 0.0, 1.0], len(column))
    loss = rng.choice([0.0, 1.0, 2.5], len(column))
    half = rng.normal(size=(width, 2))
    base = np.corrcoef(half @ half.T + 1e-3 * rng.normal(size=(width, width)))
    found = resolved(sign, loss, offsets, column, base)
    assert set(found.tolist()) <= {-1.0, 1.0}
    assert np.array_equal(found[sign != 0.0], sign[sign != 0.0])
    for row in range(20):
        own = slice(offsets[row], offsets[row + 1])
        m, known = found[own] * loss[own], sign[own] != 0.0
        form = m @ base[np.ix_(column[own], column[own])] @ m
        part = m * known
        less = part @ base[np.ix_(column[own], column[own])] @ part
        assert form >= less + np.sum((m * ~known) ** 2) - 1e-9


# ---------------------------------------------------------------- grids


def test_default_cells_are_27_and_the_first_is_still() -> None:
    cells = cells_of(GridParameters(), ["A", "B"])
    assert cells.move.shape == (2, 27)
    assert [block.stop - block.start for block in cells.blocks] == [3, 12, 12]
    assert cells.move[0, 0] == cells.volatility[0, 0] == 0
    assert sorted(set(cells.move[1])) == [*joint_oracle.MOVES[:4], 0.0, *joint_oracle.MOVES[4:]]
    assert np.bincount(cells.volatility[0] + 1).tolist() == [9, 9, 9]


def test_an_underlying_may_have_another_grid() -> None:
    """What is not named stays; narrower grids are padded with cells where nothing moves."""
    parameters = GridParameters.model_validate(
        {
            "grid": {"volatility_up": 0.4, "tails": [{"price_move": -0.66, "share": 0.2}]},
            "underlyings": {"B": {"price_moves": [-0.5], "tails": []}},
        }
    )
    assert parameters.grid_of("A").price_moves == parameters.grid.price_moves
    assert parameters.grid_of("B").volatility_up == 0.4
    cells = cells_of(parameters, ["A", "B"])
    assert [block.stop - block.start for block in cells.blocks] == [3, 13, 12]
    market = market_of(spots("AB"), alternating("AB", 0.01))
    pnl = grid_pnl(market.instruments, cells)
    assert pnl[0].min() == -18.0 and pnl[0, 15] == pytest.approx(-13.2) and pnl[1].min() == -50.0
    assert pnl[1].max() == 0.0


def test_volatility_moves_more_for_what_expires_soon() -> None:
    legs = [Contract("call", "A", 1.0, 100.0, 100.0, 0.5, days / 365) for days in (0, 1, 30, 120)]
    market = market_of(legs, alternating("A", 0.01))
    pnl = grid_pnl(market.instruments, cells_of(GridParameters(), ["A"]))
    assert pnl[0, :3].tolist() == [0.0, 0.0, 0.0]  # expires now
    for leg, days, power in ((1, 1, 0.3), (2, 30, 0.3), (3, 120, 0.13)):
        g = (30 / days) ** power
        up = legs[leg].profit(0.0, 0.5 * (1 + 0.5 * g))
        down = legs[leg].profit(0.0, 0.5 * max(1 - 0.3 * g, 0.0))
        assert pnl[leg, 1:3] == pytest.approx([up, down], rel=1e-12)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"lookback": 10, "theta": 1.5}, "theta"),
        ({"lookback": 10, "offset_cap": -0.1}, "offset_cap"),
        ({"lookback": 10, "confidence": 1.0}, "confidence"),
        ({"lookback": 0}, "lookback"),
        ({"lookback": 10, "two_sided": 0.0}, "two_sided"),
        ({"lookback": 10, "grid": {"price_moves": []}}, "price_moves"),
        ({"lookback": 10, "grid": {"price_moves": [-1.5]}}, "price_moves"),
        ({"lookback": 10, "grid": {"price_moves": [math.nan]}}, "price_moves"),
        ({"lookback": 10, "underlyings": {"SOL": {"price_move": [0.1]}}}, "price_moves"),
        ({"lookback": 10, "underlyings": {"SOL": {"volatility_down": 2.0}}}, "SOL.volatility_down"),
        ({"lookback": 10, "stress_days": [20200312]}, "must be a date"),
        ({"lookback": 10, "stress_days": ["12 March 2020"]}, "must be a date"),
        ({"lookback": 10, "thetta": 0.25}, "did you mean 'theta'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parameters.model_validate(settings_)


# ---------------------------------------------------------------- stress days


def test_stress_days_are_scenarios_of_their_own() -> None:
    """A crash before the window counts once it is named; one inside it counts once."""
    prices = alternating("A", 0.01)
    prices["A"][10:] = [price / 2.0 for price in prices["A"][10:]]
    market = market_of(spots("A"), prices)
    rows = rows_of({0: 1.0}, {0: -1.0})
    plain = model(market, lookback=20)
    named = model(market, lookback=20, stress_days=stress_text(market, 10))
    assert len(named.unit.scenarios) == 21
    assert named.unit.scenarios[0] == market.history.dates[10].isoformat()
    assert plain.require(rows).amount.tolist() == [18.0, 18.0]
    found = named.require(rows)
    assert found.amount == pytest.approx([50.5, 18.0]) and found.worst[0] == 0
    inside = model(market, lookback=35, stress_days=stress_text(market, 10, 20))
    assert inside.unit.scenarios == model(market, lookback=35).unit.scenarios


def test_stress_days_follow_the_horizon() -> None:
    prices = alternating("A", 0.01)
    market = market_of(spots("A"), prices)
    day = stress_text(market, 5)
    for horizon, want in (("overlapping", prices["A"][5] / prices["A"][3] - 1.0), ("sqrt_time", 0)):
        parameters = Parameters.model_validate(
            {"lookback": 20, "stress_days": day, "horizon_days": 2, "horizon": horizon}
        )
        found = joint.scenarios_of(parameters, market.history).returns[0, 0]
        want = want or (prices["A"][5] / prices["A"][4] - 1.0) * math.sqrt(2.0)
        assert found == pytest.approx(want, rel=1e-12)


def test_an_absent_stress_day_is_named() -> None:
    market = market_of(spots("A"), alternating("A", 0.01))
    with pytest.raises(ConfigError, match="2020-03-12 is not in the history"):
        model(market, stress_days=["2020-03-12"])
    with pytest.raises(ConfigError, match=r"has no price 1 day\(s\) before"):
        model(market, stress_days=stress_text(market, 0))
    with pytest.raises(ConfigError, match="lookback asks for 41"):
        model(market, lookback=41)
    with pytest.raises(ConfigError, match="2024-03-02 is not"):
        model(market, stress_days=["2024-03-02"])


# ---------------------------------------------------------------- limits


def test_no_rows_and_no_positions() -> None:
    prepared = model(market_of(spots("AB"), alternating("AB", 0.01)))
    assert amounts(prepared) == []
    found = prepared.require(rows_of({}, {0: 1.0}, {}))
    assert found.amount[[0, 2]].tolist() == [0.0, 0.0] and found.amount[1] == 18.0
    assert not any(math.copysign(1.0, value) < 0 for value in found.amount)
    assert all(part[0] == 0.0 for part in found.components.values())
    assert not any(part[0] for name, part in prepared.figures(rows_of({})).items())


@pytest.mark.parametrize("theta", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("c", [0.0, 0.3, 0.8, 1.0])
def test_one_underlying_requires_its_own_loss_to_the_last_bit(theta: float, c: float) -> None:
    rng = np.random.default_rng(4)
    market = market_of([*spots("AB", 0.1), *straddle("A")], walks(rng, "AB"))
    prepared = model(market, theta=theta, offset_cap=c)
    rows = rows_of(*({0: q, 2: r} for q, r in rng.normal(size=(50, 2))))
    found = prepared.figures(rows)
    want = np.maximum(found["expected_shortfall"], prepared.grid_losses(rows).loss)
    assert np.array_equal(found["requirement"], want)
    for name in ("grid_base", "gross_grid"):
        assert np.array_equal(found[name], prepared.grid_losses(rows).loss)


def test_a_perfect_hedge_in_one_underlying_requires_nothing() -> None:
    market = market_of([*spots("A"), *spots("A")], walks(np.random.default_rng(2), "A"))
    assert amounts(model(market), {0: 5.0, 1: -5.0}) == [0.0]


def test_zero_volatility_and_no_time() -> None:
    legs = [
        Contract("call", "A", 1.0, 100.0, 90.0, 0.0, 0.1),
        Contract("put", "A", 1.0, 100.0, 110.0, 0.5, 0.0),
    ]
    market = market_of(legs, alternating("A", 0.01))
    assert amounts(model(market), {0: 1.0}, {0: -1.0}, {1: 1.0}, {1: -1.0}) == [10.0, 18.0] * 2


def test_prices_that_never_move() -> None:
    """No correlation is known: losses of the grid are joined as if they were unrelated."""
    market = market_of(spots("AB"), {"A": [100.0] * 41, "B": [100.0] * 41})
    found = model(market).figures(rows_of({0: 1.0, 1: 1.0}))
    assert found["expected_shortfall"][0] == 0.0
    assert found["grid_base"][0] == pytest.approx(18.0 * math.sqrt(2.0))


def test_a_price_that_falls_to_nothing() -> None:
    market = market_of([*spots("A"), *straddle("A")], alternating("A", 0.01))
    prepared = model(market, grid={"price_moves": [-1.0]})
    call, put = straddle("A")
    assert amounts(prepared, {0: 1.0}) == [100.0]
    assert amounts(prepared, {2: -1.0}) == pytest.approx([put.profit(-1.0)])
    assert math.isfinite(call.profit(-1.0))


@pytest.mark.parametrize("size", [1e-160, 1e-6, 1e6, 1e20, 1e150])
def test_sizes_beyond_squares(size: float) -> None:
    """Squares of these would overflow or vanish."""
    market = market_of(spots("ABC"), walks(np.random.default_rng(3), "ABC"))
    book = {0: 1.0, 1: -2.0, 2: 0.5}
    prepared = model(market)
    (one,) = amounts(prepared, book)
    (found,) = amounts(prepared, {code: q * size for code, q in book.items()})
    assert found == pytest.approx(one * size, rel=1e-12)


def test_all_short_options() -> None:
    """Every loss is one of a rising price or a falling one, none is a gain."""
    legs = [*straddle("A"), *straddle("B")]
    market = market_of(legs, walks(np.random.default_rng(5), "AB"))
    prepared = model(market)
    rows = rows_of({0: -1.0}, {1: -1.0}, {0: -1.0, 3: -1.0}, dict.fromkeys(range(4), -1.0))
    assert prepared.grid_losses(rows).sign[:4].tolist() == [1.0, -1.0, 1.0, -1.0]
    assert np.all(prepared.require(rows).amount > 0.0)


# ---------------------------------------------------------------- as the house uses it


def test_margin_is_what_require_says() -> None:
    market = market_of([*spots("AB"), *straddle("B")], walks(np.random.default_rng(10), "AB"))
    prepared = model(market)
    book = portfolio_of(
        {
            "one": {"x": {0: 1.0, 1: -1.0}, "y": {0: -1.0, 2: 1.0}},
            "two": {"": {0: 1.0, 1: -2.0, 3: -3.0}},
            "nothing": {"": {}},
        }
    )
    (margin,) = prepared.margin(book)
    required = prepared.require(book.netted)
    assert np.array_equal(margin.sets.requirement, required.amount)
    assert margin.components.keys() == required.components.keys()
    for name, part in margin.components.items():
        assert np.array_equal(part, required.components[name])
    assert np.array_equal(margin.sets.worst, required.worst)
    assert margin.level == "initial" and margin.scenarios == prepared.unit.scenarios
    # The worst scenario of an account is that of its sets together.
    together = prepared.require(rows_of({1: -1.0, 2: 1.0})).worst[0]
    assert margin.account_worst[list(book.accounts).index("one")] == together
    figures = prepared.positions(book)
    assert figures.worst_pnl is not None and len(figures.exposure) == 7
    alone = amounts(
        prepared, *({int(c): q} for c, q in zip(book.netted.column, book.netted.value, strict=True))
    )
    assert figures.standalone == pytest.approx(alone, rel=1e-12)


MODELS = {
    "cov": small_case.covariance(),
    "es": small_case.simulation(),
    "joint": {"kind": "joint", "lookback": 20, "stress_days": ["2024-02-20"], "allocation": True},
}
CASE = small_case.Case(
    {**small_case.CASE.config, "models": MODELS},
    *(small_case.CASE.rows(table) for table in small_case.TABLES),
)


def test_a_run_with_other_models_beside(tmp_path: Path) -> None:
    """From a TOML file to the folder of results, explain and whatif on it."""
    from gpu_margin.cli import app

    config = small_case.write_case(CASE, tmp_path / "inputs", "csv")
    done = CliRunner().invoke(app, ["run", str(config), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    finished = small_case.sound(gpu_margin.run(config, backend="numpy"))
    mine = finished.margins.filter(pl.col("model") == "joint")
    written = pl.read_parquet(tmp_path / "out" / "margins.parquet")
    assert written.filter(pl.col("model") == "joint").equals(mine)
    assert mine["requirement"].min() >= 0.0 and mine["worst_scenario"].null_count() == 0
    parts = finished.components.filter(pl.col("model") == "joint")
    assert set(parts["component"]) == {"expected_shortfall", "correlated_grid", "offset_floor"}
    for account in mine["account_id"]:
        (found,) = explain(tmp_path / "out", account, "joint")
        slack = 1e-9 * found.figures["gross_exposure"]
        total = found.positions["contribution"].sum()
        assert total == pytest.approx(found.figures["requirement"], rel=1e-9, abs=slack)
        assert found.positions["worst_pnl"].null_count() == 0


def test_every_term_as_a_table() -> None:
    """What a run says in components, with all that is not in force."""
    frames = small_case.frames(CASE)
    found = joint_terms(CASE.config, backend="numpy", **frames)
    finished = small_case.run(CASE)
    keys = ["account_id", "netting_set"]
    mine = finished.sets.filter((pl.col("model") == "joint") & pl.col("requirement").is_not_null())
    wide = found.figures.pivot("figure", index=keys, values="amount").sort(keys)
    assert wide.select(*keys, "requirement").rows() == mine.select(*keys, "requirement").rows()
    names = ("expected_shortfall", "grid_base", "grid_less", "grid_more", "offset_bound")
    assert wide.select(pl.max_horizontal(names)).to_series().to_list() == pytest.approx(
        wide["requirement"].to_list(), rel=1e-14
    )
    gross = found.grid_losses.group_by(keys).agg(pl.col("loss").abs().sum()).sort(keys)
    both = wide.join(gross, on=keys)
    assert both["loss"].to_list() == pytest.approx(both["gross_grid"].to_list(), rel=1e-14)
    assert set(found.grid_losses["volatility"]) <= {"down", "same", "up"}
    assert set(found.figures["model"]) == {"joint"}
    with pytest.raises(ConfigError, match="no model is of kind"):
        joint_terms(CASE.config, model="es", **frames)


def test_what_ifs_and_orders() -> None:
    """What a trade would do is what the rulebook says of the book with it."""
    loaded = loaded_case(CASE)
    one = next(model for model in loaded.models if model.name == "joint")
    prepared = prepare(loaded, one, NUMPY)
    account, instrument = loaded.portfolio.accounts[0], loaded.market.instruments.ids[0]
    trade = {"whatif_id": "w", "account_id": account, "instrument_id": instrument, "quantity": 5.0}
    answers = WhatIf(loaded, NUMPY, model="joint").ask(pl.DataFrame([trade]))
    (row,) = answers.table.to_dicts()
    assert (
        row["before"]
        == prepared.margin(loaded.portfolio)[0]
        .sets.requirement[loaded.portfolio.set_account == 0]
        .sum()
    )
    assert row["change"] != 0.0


def test_the_gate_asks_for_the_worst_fill() -> None:
    """Of two open orders those fills that require most, which need not be all of them."""
    market = market_of(spots("AB"), alternating("AB", 0.01))
    prepared = model(market)
    book = rows_of({0: 10.0})
    orders = [{}, {0: 5.0}, {1: -5.0}, {0: 5.0, 1: -5.0}]
    fills = [{0: 10.0 + own.get(0, 0.0), **{c: q for c, q in own.items() if c}} for own in orders]
    marks = {code: MarkState(100.0, 1.0) for code in (0, 1)}
    open_order = Order(0, 5.0, 0.0)
    state = GateState(gate_market(prepared, market, NUMPY), book, (open_order,), 1e6, marks)
    decision = decide(state, Order(1, -5.0, 1.0), GateParameters(model="joint", stale_seconds=60.0))
    assert decision.worst_fill_before == max(amounts(prepared, *fills[:2]))
    assert decision.worst_fill_after == max(amounts(prepared, *fills))


def test_a_live_book_follows_fills() -> None:
    """After a fill it says what a run of the new positions says."""
    frames = small_case.frames(CASE)
    live = LiveBook(load_book(CASE.config, **frames), "numpy", **frames)
    account = CASE.positions[0]["account_id"]
    instrument = CASE.instruments[0]["instrument_id"]
    row = {"fill_id": "1", "account_id": account, "instrument_id": instrument}
    row |= {"netting_set": None, "quantity": 3.0, "price": 100.0, "fee": 0.0}
    live.apply([Record(1, "fills", {name: [value] for name, value in row.items()})])
    found = live.account(account)
    more = [*CASE.positions, small_case.position(account, instrument, 3.0)]
    (want,) = (
        small_case.run(CASE.with_rows("positions", more))
        .margins.filter((pl.col("account_id") == account) & (pl.col("model") == "joint"))
        .to_dicts()
    )
    assert found is not None
    mine = found["models"]["joint"]
    assert mine["requirement"] == pytest.approx(want["requirement"], rel=1e-12)
    assert sum(mine["components"].values()) == pytest.approx(mine["requirement"], rel=1e-12)


def test_bad_settings_are_named_in_a_run() -> None:
    config = {**CASE.config, "models": {"joint": {"kind": "joint", "lookback": 20, "thete": 1}}}
    with pytest.raises(ConfigError, match=r"models.joint.*did you mean 'theta'"):
        small_case.run(small_case.Case(config, *(CASE.rows(t) for t in small_case.TABLES)))
    absent = {"kind": "joint", "lookback": 20, "stress_days": [date(2020, 3, 12)]}
    config = {**CASE.config, "models": {"joint": absent}}
    with pytest.raises(ConfigError, match="2020-03-12 is not in the history"):
        small_case.run(small_case.Case(config, *(CASE.rows(t) for t in small_case.TABLES)))


def test_many_accounts_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_margin import tiling

    whole = small_case.run(CASE)
    monkeypatch.setattr(tiling, "_TILE_SIZE", 3)
    tiled = small_case.run(CASE)
    assert whole.margins.equals(tiled.margins) and whole.components.equals(tiled.components)
