"""Deribit's portfolio margin: recorded answers, a plain loop beside it, limits, backends."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deribit_case as case
import numpy as np
import pytest
import strict_backend
from crypto_bits_case import assert_same_bits
from scipy.special import ndtr

from gpu_margin import backend, crypto_files
from gpu_margin.crypto_book import INITIAL, MAINTENANCE, CryptoBook, CryptoMargin, CryptoMarket
from gpu_margin.deribit_vectors import Figures
from gpu_margin.failures import ConfigError
from gpu_margin.io.deribit import read_deribit
from gpu_margin.models import deribit_pm

# The venue rounds the worst case to nine decimals before it adds.
ROUNDED = 1e-9
SPOT = {"BTC": 60_000.0, "ETH": 3_000.0}
BACKENDS = ("numpy", "numba", "strict")


def on(name: str) -> Any:
    return strict_backend.BACKEND if name == "strict" else backend.load(name)


def figures(**own: Any) -> Figures:
    parameters = deribit_pm.Parameters(feeds="feeds", positions="positions", figures=own)
    return deribit_pm.figures(parameters)


def margined(
    quoted: CryptoMarket, held: CryptoBook, table: Figures | None = None, name: str = "numpy"
) -> CryptoMargin:
    prepared = deribit_pm.prepare(table or figures(), quoted, on(name))
    return prepared.margin(held, pnl=True)


def one(found: CryptoMargin, name: str) -> float:
    """A figure of the only set, in its settlement currency."""
    return float(found.figures[f"settlement_{name}"][0])


# ---------------------------------------------------------------- recorded answers


@pytest.mark.parametrize("name", [pytest.param(n, id=f"deribit_pm-{n}") for n in case.recorded()])
def test_recorded_answers(name: str, tmp_path: Path) -> None:
    recorded = case.recorded()[name]
    path = tmp_path / "simulate.json"
    path.write_text(json.dumps(case.answer(recorded)), encoding="utf-8")
    answers = read_deribit(path)
    assert answers.failures.is_empty()
    parameters = deribit_pm.Parameters(feeds=path, positions=path, model_params=path)
    prepared = deribit_pm.prepare(
        deribit_pm.figures(parameters), answers.market, backend.load("numpy")
    )
    found = prepared.margin(answers.book, pnl=True)
    expected = recorded["expected"]
    _check_vectors(prepared, recorded)
    _check_amounts(found, expected)
    _check_worst(found, expected["worst_case_bucket"])
    index = next(iter(recorded["index"].values()))
    assert found.pnl is not None
    vector = found.pnl[0] / index
    told = expected["aggregated_standard"]
    standard = np.repeat(told, 3) if len(told) == 9 else told
    np.testing.assert_allclose(vector[:27], standard, rtol=1e-12, atol=1e-15)
    extended = expected["aggregated_extended"]
    np.testing.assert_allclose(vector[27:], extended, rtol=1e-12, atol=1e-15)


def _check_vectors(prepared: deribit_pm.Prepared, recorded: Mapping[str, Any]) -> None:
    """Risk vectors of positions before they are added up."""
    told = recorded["expected"]
    names = prepared.market.instruments.ids.to_list()
    for key, part in (("standard", slice(0, 27)), ("extended", slice(27, 35))):
        vectors = told[f"initial_risk_vector_{key}"]
        if not isinstance(vectors, dict):
            vectors = {next(iter(recorded["position_base"])): vectors}
        for name, vector in vectors.items():
            own = prepared.vectors.amounts[names.index(name)] * recorded["position_base"][name]
            # Vectors are written down once per bucket where volatility changes nothing.
            every = np.repeat(vector, 3) if len(vector) == 9 else vector
            np.testing.assert_allclose(own[part], every, rtol=1e-12, atol=1e-15)


def _check_amounts(found: CryptoMargin, expected: Mapping[str, Any]) -> None:
    exact = ("worst_case", "roll_shock", "delta_shock", "correlation_contingency")
    for name in exact:
        assert one(found, name) == pytest.approx(expected[name], rel=1e-12, abs=1e-15)
    for name in ("risk_matrix_margin", "initial_margin", "maintenance_margin"):
        assert one(found, name) == pytest.approx(expected[name], rel=0, abs=ROUNDED)
    index = found.figures["settlement_index"][0]
    for level, name in ((INITIAL, "initial_margin"), (MAINTENANCE, "maintenance_margin")):
        required = found.levels[level].requirement[0]
        assert required == pytest.approx(one(found, name) * index, rel=1e-14)


def _check_worst(found: CryptoMargin, bucket: Mapping[str, Any]) -> None:
    name = found.scenarios[found.worst[0]]
    assert name.startswith(f"{bucket['source']} bucket {bucket['bucket']} {bucket['side']} ")
    assert found.worst[0] == bucket["index"] - 1 + 27 * (bucket["source"] == "extended")


# ---------------------------------------------------------------- a plain loop beside it


def _black(forward: float, strike: float, volatility: float, years: float, call: bool) -> float:
    deviation, sign = volatility * math.sqrt(years), 1.0 if call else -1.0
    if deviation == 0.0:
        return max(sign * (forward - strike), 0.0)
    d1 = math.log(forward / strike) / deviation + deviation / 2.0
    return sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * (d1 - deviation)))


class Loop:
    """The rulebook as one would write it down, for one set."""

    def __init__(self, things: list[case.Thing], table: Figures, basis: float) -> None:
        self.things = {thing.name: thing for thing in things}
        self.table, self.basis = table, basis

    def pnl(self, thing: case.Thing, move: float, vol: str) -> float:
        """In coins of the underlying if inverse, else in USD."""
        spot, inverse = SPOT[thing.underlying], thing.settlement == thing.underlying
        if not thing.strike:
            return move / (1.0 + move) if inverse else spot * move
        pair, years = (
            self.table.currency_pair[f"{thing.underlying.lower()}_usd"],
            thing.days / 365.0,
        )
        short = thing.days <= 30.0
        power = pair.short_term_vega_power if short else pair.long_term_vega_power
        growth = (30.0 / thing.days) ** power
        shocked = {
            "down": max(thing.volatility * (1.0 - pair.volatility_range_down * growth), 0.0),
            "same": thing.volatility,
            "up": max(
                thing.volatility * (1.0 + pair.volatility_range_up * growth),
                pair.min_volatility_for_shock_up,
            ),
        }[vol]
        forward = spot * (1.0 + self.basis)
        moved = forward * (1.0 + move)
        after = _black(moved, thing.strike, shocked, years, thing.call)
        before = _black(forward, thing.strike, thing.volatility, years, thing.call)
        return after / moved - before / forward if inverse else after - before

    def delta(self, thing: case.Thing) -> float:
        if not thing.strike:
            return 1.0
        forward, years = SPOT[thing.underlying] * (1.0 + self.basis), thing.days / 365.0
        deviation = thing.volatility * math.sqrt(years)
        d1 = math.log(forward / thing.strike) / deviation + deviation / 2.0
        slope = ndtr(d1) if thing.call else ndtr(d1) - 1.0
        if thing.settlement != thing.underlying:
            return slope
        own = _black(forward, thing.strike, thing.volatility, years, thing.call)
        return slope - own / forward

    def premium(self, thing: case.Thing) -> float:
        if not thing.strike or thing.days is None:
            return 0.0
        forward, years = SPOT[thing.underlying] * (1.0 + self.basis), thing.days / 365.0
        return _black(forward, thing.strike, thing.volatility, years, thing.call) / forward

    def vector(self, held: Mapping[str, float], base: str, cross: bool) -> list[float]:
        """[scenario] of one underlying, in its coin, or in USD where positions are linear."""
        currency = self.table.currency[base.lower()]
        pair = self.table.currency_pair[f"{base.lower()}_usd"]
        wide, half = pair.price_range, self.table.general.buckets_count
        cells = [
            (wide * step / half, vol, False)
            for step in range(-half, half + 1)
            for vol in ("down", "same", "up")
        ]
        cells += [(move, "up", True) for move in self.table.extended_moves]
        found = []
        for move, vol, extended in cells:
            edge = min(max(move, -wide), wide)
            price, total = SPOT[base] * (1.0 + edge), 0.0
            unit = 1.0
            for name, size in held.items():
                thing = self.things[name]
                inverse = thing.settlement == thing.underlying
                gain = size * self.pnl(thing, move, vol)
                if inverse:
                    unit = 1.0 if cross else price
                if inverse and (extended or cross):
                    gain *= SPOT[base] * (1.0 + move)
                if inverse and cross:
                    # An option's value is equity, which moves with its coin.
                    gain += size * self.premium(thing) * SPOT[base] * move
                if extended:
                    gain *= pair.extended_table_factor * wide / abs(move)
                    if inverse and not cross:
                        gain /= price
                total += gain
            dampener = (abs(move) / wide - 1.0) * currency.extended_dampener / unit
            if total > 0.0:
                total = min(total * currency.pnl_offset, currency.max_offsetable_pnl / unit)
            if extended:
                total = math.copysign(max(abs(total) - dampener, 0.0), total)
            found.append(total)
        return found

    def margin(self, held: Mapping[str, float], cross: bool) -> dict[str, float]:
        bases = sorted({self.things[name].underlying for name in held})
        inverse = any(self.things[n].settlement == self.things[n].underlying for n in held)
        index = SPOT[bases[0]] if inverse and not cross else 1.0
        of = {b: {n: q for n, q in held.items() if self.things[n].underlying == b} for b in bases}
        vectors = [self.vector(of[base], base, cross) for base in bases]
        joined = [sum(cells) for cells in zip(*vectors, strict=True)]
        worst = min(range(len(joined)), key=joined.__getitem__)
        gains = sum(max(vector[worst], 0.0) for vector in vectors)
        roll = delta_shock = 0.0
        for base in bases:
            currency = self.table.currency[base.lower()]
            pair = self.table.currency_pair[f"{base.lower()}_usd"]
            groups = dict[Any, float]()
            for name, size in of[base].items():
                thing = self.things[name]
                group = thing.days
                groups[group] = groups.get(group, 0.0) + size * self.delta(thing)
            for days, delta in groups.items():
                growth = math.exp(currency.annualised_move_risk * (days or 0.0) / 365.0) - 1.0
                move = max(currency.min_annualised_move, growth)
                roll += abs(delta) * move * SPOT[base] / index
            total = abs(sum(groups.values()))
            excess = max(total - pair.delta_total_liq_shock_threshold / SPOT[base], 0.0)
            move = min(pair.m_inc * excess, pair.max_delta_shock)
            delta_shock += move * total * SPOT[base] / index
        return {
            "worst_case": -joined[worst],
            "roll_shock": roll,
            "delta_shock": delta_shock,
            "correlation_contingency": (self.table.correlation_contingency or 0.0) * gains,
        }


def _things() -> list[case.Thing]:
    found = []
    for base, spot in SPOT.items():
        for settled in (None, "USDC"):
            found += [case.perpetual(base, settled), case.future(base, 45.0, settled)]
            for days in (2.0, 45.0):
                for ratio in (0.7, 1.0, 1.4):
                    strike = round(spot * ratio)
                    found += [
                        case.option(base, days, strike, call, 0.3 + 0.4 * ratio, settled)
                        for call in (True, False)
                    ]
    return found


def _random_sets(things: list[case.Thing], count: int) -> list[tuple[str, dict[str, float]]]:
    generator = np.random.default_rng(7)
    sets = []
    for number in range(count):
        market = ("BTC", "ETH", "USDC", "CROSS")[number % 4]
        fits = [one for one in things if market in ("CROSS", one.settlement)]
        chosen = generator.choice(len(fits), size=int(generator.integers(1, 9)), replace=False)
        scale = float(10.0 ** generator.uniform(-2, 4.5))
        sets.append((market, {fits[i].name: float(generator.normal() * scale) for i in chosen}))
    return sets


@pytest.mark.parametrize("basis", [0.0, 0.02])
def test_a_plain_loop_says_the_same(basis: float) -> None:
    things = _things()
    table = figures(
        correlation_contingency=0.4,
        currency={"btc": {"pnl_offset": 0.5, "max_offsetable_pnl": 3e6, "extended_dampener": 2e5}},
    )
    sets = _random_sets(things, 120)
    quoted = case.market(things, SPOT, basis)
    held = case.book(quoted, [own for _, own in sets], [name for name, _ in sets])
    found, loop = margined(quoted, held, table), Loop(things, table, basis)
    assert found.failures.is_empty()
    for number, (name, own) in enumerate(sets):
        expected = loop.margin(own, name == "CROSS")
        size = sum(expected.values())
        for part, amount in expected.items():
            ours = found.figures[f"settlement_{part}"][number]
            assert ours == pytest.approx(amount, rel=1e-9, abs=1e-11 * max(size, 1e-6)), (part, own)
    # The study is only worth something if all of it occurs.
    worst = [found.scenarios[code] for code in found.worst]
    assert any(name.startswith("extended") for name in worst)
    for part in ("delta_shock", "correlation_contingency"):
        assert (found.figures[f"settlement_{part}"] > 0.0).any()


# ---------------------------------------------------------------- components, collateral


def test_components_add_up_exactly_at_both_levels() -> None:
    things = [*_things(), case.coin("BTC", SPOT["BTC"]), case.coin("STETH", 2_900.0)]
    sets = _random_sets(_things(), 40)
    quoted = case.market(things, SPOT)
    charges = {"open_orders": [0.1] * 40, "mmp": [0.2] * 40, "spot": [0.3] * 40}
    held = case.book(quoted, [own for _, own in sets], [name for name, _ in sets], charges=charges)
    found = margined(quoted, held, figures(correlation_contingency=0.3))
    for level in found.levels.values():
        total = np.zeros(40)
        for amount in level.components.values():
            total = total + amount
        np.testing.assert_array_equal(total, level.requirement)
    assert list(found.levels[INITIAL].components) == [
        "worst_case", "roll_shock", "delta_shock", "correlation_contingency",
        "open_orders", "mmp", "spot", "collateral_haircut",
    ]  # fmt: skip
    matrix = found.figures["settlement_risk_matrix_margin"] * found.figures["settlement_index"]
    np.testing.assert_allclose(found.levels[MAINTENANCE].requirement, 0.8 * matrix, rtol=1e-14)


def test_the_requirement_in_coins_is_at_the_index() -> None:
    things = [case.perpetual("BTC")]
    quoted = case.market(things, SPOT)
    held = case.book(quoted, [{"BTC-PERPETUAL": 2.0}], charges={"mmp": [0.5]})
    found = margined(quoted, held)
    # 16% down costs 0.16 / 0.84 of a coin; the perpetual's roll shock is 1%.
    coins = 2.0 * 0.16 / 0.84 + 0.02 + 0.5
    assert one(found, "initial_margin") == pytest.approx(coins, rel=1e-14)
    assert found.levels[INITIAL].requirement[0] == pytest.approx(coins * 60_000.0, rel=1e-14)


def test_haircuts_are_of_positive_collateral_in_the_initial_margin_only() -> None:
    things = [case.perpetual("BTC"), case.coin("BTC", 60_000.0)]
    quoted = case.market(things, SPOT)
    held = case.book(quoted, [{"BTC": 3.0}, {"BTC": -3.0}, {"BTC": 3.0, "BTC-PERPETUAL": 1.0}])
    found = margined(quoted, held, figures(currency={"btc": {"haircut": 0.1}}))
    haircut = found.levels[INITIAL].components["collateral_haircut"]
    assert haircut.tolist() == pytest.approx([18_000.0, 0.0, 18_000.0], rel=1e-14)
    assert "collateral_haircut" not in found.levels[MAINTENANCE].components
    assert found.mark_to_market.tolist() == [180_000.0, -180_000.0, 180_000.0]
    assert found.worst.tolist()[:2] == [-1, -1]


def test_cash_is_at_the_price_of_the_stable_coin_and_has_a_haircut() -> None:
    things = [case.perpetual("BTC", "USDC")]
    quoted = case.market(things, SPOT)
    held = case.book(quoted, [{}], cash=[1_000.0])
    found = margined(quoted, held, figures(currency={"usd": {"haircut": 0.01}}))
    assert found.cash[0] == 1_000.0
    assert found.levels[INITIAL].requirement[0] == pytest.approx(10.0)
    assert found.value(INITIAL)[0] == pytest.approx(990.0)


def test_an_option_without_a_mark_is_worth_what_the_model_says() -> None:
    call = case.option("ETH", 30.0, 3_000.0)
    quoted = case.market([call], SPOT, basis=0.01)
    found = margined(quoted, case.book(quoted, [{call.name: -2.0}]))
    # In coins it is the value over the forward, and these are worth the index.
    coins = _black(3_030.0, 3_000.0, 0.6, 30.0 / 365.0, True) / 3_030.0
    assert found.mark_to_market[0] == pytest.approx(-2.0 * coins * 3_000.0, rel=1e-12)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_at_all(name: str) -> None:
    quoted = case.market(_things(), SPOT)
    found = margined(quoted, case.book(quoted, [{}]), None, name)
    assert found.failures.is_empty()
    assert found.levels[INITIAL].requirement.tolist() == [0.0]
    assert found.worst.tolist() == [-1]
    nobody = margined(quoted, case.book(quoted, []), None, name)
    assert nobody.levels[INITIAL].requirement.tolist() == []
    empty = case.market([], {})
    found = margined(empty, case.book(empty, [{}]), None, name)
    assert found.mark_to_market.tolist() == [0.0]


def test_without_volatility_and_time_an_option_is_worth_its_intrinsic_value() -> None:
    things = [
        case.option("ETH", 30.0, 2_500.0, volatility=0.0),
        case.option("ETH", 0.0, 2_500.0, volatility=0.8),
    ]
    quoted = case.market(things, SPOT)
    for thing in things:
        found = margined(quoted, case.book(quoted, [{thing.name: 1.0}]))
        assert found.failures.is_empty()
        coins = (3_000.0 - 2_500.0) / 3_000.0
        assert found.mark_to_market[0] == pytest.approx(coins * 3_000.0, rel=1e-14)
        # 18% down it is out of the money; all of its value is lost, and its net delta rolls.
        assert one(found, "worst_case") == pytest.approx(coins, rel=1e-14)
        assert one(found, "roll_shock") == pytest.approx((1.0 - coins) * 0.005, rel=1e-12)


def test_volatility_up_has_a_floor() -> None:
    low = case.option("BTC", 30.0, 60_000.0, volatility=0.1)
    quoted = case.market([low], SPOT)
    held = case.book(quoted, [{low.name: -1.0}])
    floor = margined(quoted, held, figures())
    none = margined(
        quoted, held, figures(currency_pair={"btc_usd": {"min_volatility_for_shock_up": 0.0}})
    )
    up = floor.scenarios.index("standard bucket 5 middle vol up")
    years = 30.0 / 365.0
    before = _black(6e4, 6e4, 0.1, years, True) / 6e4
    for found, volatility in ((floor, 0.5), (none, 0.15)):
        assert found.pnl is not None
        loss = before - _black(6e4, 6e4, volatility, years, True) / 6e4
        assert found.pnl[0, up] / 6e4 == pytest.approx(loss, rel=1e-11)


def test_the_part_of_a_delivery_price_that_is_known_does_not_move() -> None:
    things = [case.future("BTC", 0.01), case.option("BTC", 0.01, 50_000.0, volatility=0.0)]
    quoted = case.market(things, SPOT, fixed=0.75)
    found = margined(quoted, case.book(quoted, [{thing.name: 1.0} for thing in things]))
    step = -0.16 * 0.25
    losses = found.figures["settlement_worst_case"]
    assert losses[0] == pytest.approx(-step / (1.0 + step), rel=1e-13)
    moved = 60_000.0 * (1.0 + step)
    assert losses[1] == pytest.approx(10_000.0 / 60_000.0 - (moved - 50_000.0) / moved, rel=1e-12)
    deltas = found.figures["settlement_delta_total"]
    assert deltas.tolist() == pytest.approx([0.25, 0.25 - 10_000.0 / 60_000.0], rel=1e-12)


def test_gains_alone_require_nothing_of_the_risk_matrix() -> None:
    put, call = case.option("ETH", 60.0, 3_000.0, call=False), case.option("ETH", 60.0, 3_000.0)
    quoted = case.market([put, call], SPOT)
    # A straddle whose volatility cannot fall gains in every scenario.
    table = figures(currency_pair={"eth_usd": {"volatility_range_down": 0.0}})
    wide = margined(quoted, case.book(quoted, [{put.name: 50.0, call.name: 50.0}]), table)
    assert one(wide, "worst_case") >= 0.0
    assert one(wide, "worst_case") == pytest.approx(-wide.pnl.min() / 3_000.0)  # type: ignore[union-attr]
    sold = margined(quoted, case.book(quoted, [{put.name: -50.0, call.name: -50.0}]), table)
    assert one(sold, "worst_case") > 10.0 * one(wide, "worst_case")


def test_far_short_options_are_caught_by_the_extended_table() -> None:
    # Worth nothing within the standard table: only a move beyond it shows the loss.
    far = case.option("BTC", 5.0, 180_000.0, volatility=0.5)
    quoted = case.market([far], SPOT)
    few = margined(quoted, case.book(quoted, [{far.name: -1.0}]))
    many = margined(quoted, case.book(quoted, [{far.name: -1_000.0}]))
    assert few.scenarios[few.worst[0]].startswith("standard")
    name = many.scenarios[many.worst[0]]
    assert name == "extended bucket 8 right +5 vol up"
    # A thousand calls lose 180,000 USD each at six times the price; 16% / 500% of it counts, less
    # the dampener of 100,000 USD for each price range beyond the first.
    loss = 1_000.0 * (360_000.0 - 180_000.0) * 0.16 / 5.0 - (5.0 / 0.16 - 1.0) * 100_000.0
    assert one(many, "worst_case") == pytest.approx(loss / (60_000.0 * 1.16), rel=1e-6)


def test_what_is_linear_gains_in_the_extended_table_as_at_the_edge() -> None:
    things = [case.perpetual("BTC"), case.perpetual("BTC", "USDC")]
    quoted = case.market(things, SPOT)
    for wide in (0.16, 0.33, 0.4):
        table = figures(currency_pair={"btc_usd": {"price_range": wide}})
        vectors = deribit_pm.prepare(table, quoted, backend.load("numpy")).vectors.amounts
        for inverse, vector in zip((True, False), vectors[[0, 1]], strict=True):
            np.testing.assert_allclose(vector[27], vector[0], rtol=1e-13)
            np.testing.assert_allclose(vector[29:], vector[26], rtol=1e-13)
            # A smaller move than the edge's counts in full.
            move = -min(wide, 0.33)
            small = move / (1.0 + move) if inverse else 60_000.0 * move
            np.testing.assert_allclose(vector[28], small, rtol=1e-13)


def test_all_short_options_require_more_than_the_premium_moves() -> None:
    things = [thing for thing in _things() if thing.strike and thing.settlement == "BTC"]
    quoted = case.market(things, SPOT)
    found = margined(quoted, case.book(quoted, [{thing.name: -1.0 for thing in things}]))
    assert found.levels[INITIAL].requirement[0] > found.levels[MAINTENANCE].requirement[0] > 0.0
    assert np.isfinite(found.pnl).all()  # type: ignore[arg-type]


def test_huge_positions_pay_the_largest_delta_shock() -> None:
    quoted = case.market([case.perpetual("BTC")], SPOT)
    sizes = [20e6 / 60_000.0, 20e6 / 60_000.0 + 100.0, -1e12, 1e30]
    found = margined(quoted, case.book(quoted, [{"BTC-PERPETUAL": size} for size in sizes]))
    shock = found.figures["settlement_delta_shock"]
    assert shock[0] == 0.0
    assert shock[1] == pytest.approx(100.0 * 0.00005 * sizes[1], rel=1e-10)
    assert shock[2] == pytest.approx(0.1 * 1e12)
    assert shock[3] == pytest.approx(0.1 * 1e30)
    assert np.isfinite(found.levels[INITIAL].requirement).all()


def test_gains_are_offset_by_a_share_up_to_a_cap() -> None:
    quoted = case.market([case.perpetual("ETH")], SPOT)
    held = case.book(quoted, [{"ETH-PERPETUAL": 1.0}])
    top = 3_000.0 * 0.18 / 1.18
    for share, cap, expected in (
        (0.6, 2e7, 0.6 * top),
        (0.0, 2e7, 0.0),
        # The cap is USD at the scenario's price: fewer coins at a higher price.
        (0.6, 100.0, 100.0 / 1.18),
    ):
        own = {"eth": {"pnl_offset": share, "max_offsetable_pnl": cap}}
        found = margined(quoted, held, figures(currency=own))
        assert found.pnl is not None
        assert found.pnl[0, 24] == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- cross-collateral


def test_cross_collateral_is_refused_by_name_unless_the_contingency_is_given() -> None:
    quoted = case.market([case.perpetual("BTC"), case.perpetual("ETH")], SPOT)
    held = case.book(
        quoted, [{"BTC-PERPETUAL": 1.0, "ETH-PERPETUAL": -20.0}, {"BTC-PERPETUAL": 1.0}],
        ["CROSS", "BTC"],
    )  # fmt: skip
    found = margined(quoted, held)
    assert found.failures["field"].to_list() == ["correlation_contingency"]
    assert found.failures["source"].to_list() == ["a00000"]
    assert "is not public" in found.failures["reason"][0]
    assert np.isnan(found.levels[INITIAL].requirement).tolist() == [True, False]
    assert found.worst[0] == -1
    for share in (0.0, 0.5):
        known = margined(quoted, held, figures(correlation_contingency=share))
        assert known.failures.is_empty()
        # 16% of 60,000 against an offset of 60% of 18% of 60,000, both ways; BTC gains offset none.
        worst = 0.18 * 60_000.0
        assert one(known, "worst_case") == pytest.approx(worst, rel=1e-12)
        assert one(known, "correlation_contingency") == 0.0


def test_cross_collateral_is_refused_even_with_one_underlying() -> None:
    quoted = case.market([case.perpetual("BTC")], SPOT)
    held = case.book(quoted, [{"BTC-PERPETUAL": 1.0}, {}], ["CROSS", "CROSS"])
    assert margined(quoted, held).failures["source"].to_list() == ["a00000", "a00001"]


def test_the_contingency_takes_back_a_share_of_what_gains_offset() -> None:
    quoted = case.market([case.perpetual("BTC"), case.perpetual("ETH")], SPOT)
    own = {"BTC-PERPETUAL": 1.0, "ETH-PERPETUAL": -10.0}
    held = case.book(quoted, [own], ["CROSS"])
    for share in (0.0, 0.5, 1.0):
        found = margined(quoted, held, figures(correlation_contingency=share))
        offset = 0.6 * 0.18 * 30_000.0
        assert one(found, "worst_case") == pytest.approx(0.16 * 60_000.0 - offset, rel=1e-12)
        assert one(found, "correlation_contingency") == pytest.approx(share * offset, rel=1e-12)


def test_equity_moves_with_the_scenarios_of_a_cross_set() -> None:
    things = [case.perpetual("ETH"), case.coin("ETH", 3_000.0), case.coin("USDT", 1.0)]
    quoted = case.market(things, SPOT)
    # A coin hedges a short of one coin; dollars do not move.
    held = case.book(quoted, [{"ETH-PERPETUAL": -1.0, "ETH": 1.0, "USDT": 500.0}], ["CROSS"])
    hedged = margined(quoted, held, figures(correlation_contingency=0.0))
    assert one(hedged, "worst_case") == pytest.approx(0.0, abs=1e-9)
    still = {"eth": {"equity_side_impact": "none"}}
    bare = margined(quoted, held, figures(correlation_contingency=0.0, currency=still))
    assert one(bare, "worst_case") == pytest.approx(0.18 * 3_000.0, rel=1e-12)
    strange = {"eth": {"equity_side_impact": "upwards"}}
    refused = margined(quoted, held, figures(correlation_contingency=0.0, currency=strange))
    assert refused.failures["field"].to_list() == ["equity_side_impact"]


@pytest.mark.parametrize("make", [case.perpetual, case.future, case.option])
def test_inverse_and_linear_hedge_each_other_in_a_cross_set(make: Any) -> None:
    terms = {case.perpetual: (), case.future: (40.0,), case.option: (40.0, 70_000.0)}[make]
    inverse, linear = make("BTC", *terms), make("BTC", *terms, settlement="USDC")
    quoted = case.market([inverse, linear], SPOT)
    held = case.book(quoted, [{inverse.name: 1.0, linear.name: -1.0}], ["CROSS"])
    found = margined(quoted, held, figures(correlation_contingency=0.0))
    assert one(found, "worst_case") == pytest.approx(0.0, abs=1e-9)
    if make is not case.option:  # an inverse option's delta is less its value
        assert one(found, "initial_margin") == pytest.approx(0.0, abs=1e-9)


# ---------------------------------------------------------------- what cannot be margined


def _refused(sets: list[dict[str, float]], markets: list[str], **more: Any) -> list[str]:
    things = [
        *_things(),
        case.coin("BTC", 60_000.0),
        case.coin("ETH", 3_000.0),
        case.coin("DOGE", 0.1),
        case.perpetual("SOL"),
        case.option("BTC", 9.0, 60_000.0, volatility=np.nan),
    ]
    quoted = case.market(things, {**SPOT, "SOL": 100.0})
    good = {"BTC-PERPETUAL": 1.0}
    cash = [*more.get("cash", [0.0] * len(sets)), 0.0]
    held = case.book(quoted, [*sets, good], [*markets, "BTC"], cash=cash)
    found = margined(quoted, held)
    nan = np.isnan(found.levels[INITIAL].requirement)
    assert nan.tolist() == [True] * len(sets) + [False]
    assert found.failures["source"].sort().to_list() == [f"a{n:05}" for n in range(len(sets))]
    return found.failures.sort("source")["reason"].to_list()


def test_sets_that_cannot_be_margined_fail_alone_and_by_name() -> None:
    reasons = _refused(
        [
            {"BTC-PERPETUAL": 1.0, "ETH-PERPETUAL": 1.0},
            {"BTC-PERPETUAL": 1.0},
            {"BTC-PERPETUAL": 1.0},
            {"BTC": 1.0, "ETH": 1.0},
            {"BTC-PERPETUAL": 1.0, "ETH": 1.0},
            {"BTC_USDC-PERPETUAL": 1.0, "ETH_USDC-PERPETUAL": 1.0},
            {"SOL-PERPETUAL": 1.0},
            {"DOGE": 5.0},
            {"BTC-9-60000-C": 1.0},
        ],
        ["", "ETH", "PERP", "", "BTC", "USDC", "", "DOGE", ""],
    )
    starts = [
        "positions settle in several",
        "positions settle in another",
        "the market of a set is no",
        "nothing says",
        "a segregated set holds",
        "several underlyings",
        "no figures of its underlying",
        "no haircut",
        "the instrument cannot be valued",
    ]
    for reason, start in zip(reasons, starts, strict=True):
        assert reason.startswith(start)
    assert _refused([{"BTC-PERPETUAL": 1.0}], [""], cash=[5.0])[0].startswith("a set that settles")


def test_a_charge_that_the_venue_does_not_have_is_refused() -> None:
    quoted = case.market([case.perpetual("BTC")], SPOT)
    held = case.book(quoted, [{"BTC-PERPETUAL": 1.0}] * 2, charges={"tips": [0.0, 1.0]})
    found = margined(quoted, held)
    assert found.failures["field"].to_list() == ["tips"]
    assert found.failures["source"].to_list() == ["a00001"]


# ---------------------------------------------------------------- figures


def test_tables_say_where_they_are_from() -> None:
    versions = crypto_files.versions("deribit", "pm")
    assert versions == ["2024-06-17", "2026-02-15", "recorded"]
    for version in versions:
        parameters = deribit_pm.Parameters(feeds="f", positions="p", table=version)
        table = deribit_pm.figures(parameters)
        assert table.source and table.date
    assert set(figures().currency_pair) == {"btc_usd", "eth_usd"}


@pytest.mark.parametrize("name", list(case.recorded()))
def test_tables_are_the_recorded_figures(name: str) -> None:
    told = case.recorded()[name]["model_params"]
    for base in told["currency"]:
        if base == "usd":
            continue
        table = figures()
        assert table.currency[base].model_dump() == told["currency"][base]
        pair = f"{base}_usd"
        assert table.currency_pair[pair].model_dump() == told["currency_pair"][pair]


def test_single_figures_replace_those_of_the_table() -> None:
    table = figures(general={"mm_factor": 0.5}, currency_pair={"btc_usd": {"price_range": 0.2}})
    assert table.general.mm_factor == 0.5
    assert table.general.buckets_count == 4
    assert table.currency_pair["btc_usd"].price_range == 0.2
    assert table.currency_pair["btc_usd"].volatility_range_up == 0.5


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"currency": {"btc": {"pnl_ofset": 0.1}}}, "did you mean 'pnl_offset'"),
        ({"currency": {"btc": {"pnl_offset": 1.5}}}, "figures.currency.btc.pnl_offset"),
        ({"currency": {"sol": {"pnl_offset": 0.5}}}, "figures.currency.sol"),
        ({"currency_pair": {"btc_usd": {"price_range": math.nan}}}, "price_range"),
        ({"general": {"vol_scenarios_count": 5}}, "vol_scenarios_count"),
        ({"extended_moves": [-1.5]}, "extended_moves"),
        ({"correlation_contingency": -0.1}, "correlation_contingency"),
    ],
)
def test_figures_that_cannot_be_are_named(own: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        figures(**own)


def test_an_unknown_table_is_named() -> None:
    parameters = deribit_pm.Parameters(feeds="f", positions="p", table="latest")
    with pytest.raises(ConfigError, match=r"unknown version 'latest'.*recorded"):
        deribit_pm.figures(parameters)


# ---------------------------------------------------------------- backends and batches


def _study() -> tuple[CryptoMarket, CryptoBook, Figures]:
    things = [*_things(), case.coin("BTC", 60_000.0), case.coin("ETH", 3_000.0)]
    sets = [*_random_sets(_things(), 60), ("CROSS", {"ETH": 2.0, "ETH-PERPETUAL": -1.0}), ("", {})]
    quoted = case.market(things, SPOT, 0.01)
    held = case.book(quoted, [own for _, own in sets], [name for name, _ in sets])
    table = figures(correlation_contingency=0.25, currency={"eth": {"haircut": 0.03}})
    return quoted, held, table


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_every_backend_has_the_same_bits(name: str) -> None:
    quoted, held, table = _study()
    ours = margined(quoted, held, table)
    assert ours.pnl is not None
    assert_same_bits(ours, margined(quoted, held, table, name))


def test_a_set_has_the_same_bits_alone_as_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    quoted, held, table = _study()
    together = margined(quoted, held, table)
    assert together.pnl is not None
    for number in range(len(held.cash)):
        alone = margined(quoted, held.tile(number, number + 1), table)
        assert_same_bits(together, alone, slice(number, number + 1))
    monkeypatch.setattr(deribit_pm, "_SETS", 7)
    assert_same_bits(together, margined(quoted, held, table))
