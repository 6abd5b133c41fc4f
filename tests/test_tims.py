"""The TIMS rulebook: by hand, at its limits, its figures and settings, and through whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import small_case
import tims_oracle
import vectors_case
from hand_market import rows_of
from strict_backend import BACKEND as STRICT
from test_whatif import loaded as loaded_case
from tims_case import NUMPY, RUT, SPX, amounts, market_of, model, option, spots
from tims_oracle import RANGES, Contract
from typer.testing import CliRunner

import gpu_margin
from gpu_margin.backend import Backend
from gpu_margin.curing.model import requires
from gpu_margin.explain import explain
from gpu_margin.failures import ConfigError
from gpu_margin.gate import GateParameters, GateState, Order, decide, gate_market
from gpu_margin.live import LiveBook
from gpu_margin.loading import load_book
from gpu_margin.models import tims
from gpu_margin.models.tims import Parameters
from gpu_margin.records import Record
from gpu_margin.throttle import MarkState
from gpu_margin.tims_groups import groups_of
from gpu_margin.tims_settings import versions
from gpu_margin.tims_terms import tims_terms
from gpu_margin.whatif import WhatIf

INDEXES: dict[str, Any] = {
    "classes": {
        "A": {"type": SPX, "product_group": "large"},
        "B": {"type": SPX, "product_group": "large"},
        "C": {"type": RUT, "product_group": "small"},
    },
    "product_groups": {
        "large": {"portfolio_group": "indexes"},
        "small": {"portfolio_group": "indexes"},
    },
}

# ---------------------------------------------------------------- points


@pytest.mark.parametrize("type_", sorted(RANGES))
def test_points_are_those_of_the_vectors(type_: str) -> None:
    case = json.loads((vectors_case.folder("span") / "tims_rules.json").read_text("utf-8"))
    low, high = case["ranges"][type_]
    parameters = Parameters(default_type=type_)
    assert parameters.range_of(type_).value == [low, high]
    (moves,) = groups_of(parameters, ["A"]).moves
    assert moves == pytest.approx([float(one) for one in tims_oracle.points(low, high)], rel=1e-15)
    assert moves[0] == low and moves[-1] == high
    assert parameters.minimum().value == case["min_per_contract"]
    told = case["unverified"]
    shares = {
        SPX: told["product_group_offset_hicap"],
        RUT: told["product_group_offset_nonhicap"],
    }
    if type_ in shares:
        known = Parameters.model_validate({"classes": {"A": {"type": type_, "product_group": "g"}}})
        assert known.product_share("g").value == shares[type_]
    assert parameters.portfolio_share("any").value == told["portfolio_group"]


def test_points_as_they_are_printed() -> None:
    moves = groups_of(Parameters.model_validate(INDEXES), list("ABCD")).moves
    assert 100 * moves[0] == pytest.approx([-8, -6.4, -4.8, -3.2, -1.6, 1.2, 2.4, 3.6, 4.8, 6])
    assert 100 * moves[2] == pytest.approx([-10, -8, -6, -4, -2, 2, 4, 6, 8, 10])
    assert 100 * moves[3] == pytest.approx([-15, -12, -9, -6, -3, 3, 6, 9, 12, 15])


# ---------------------------------------------------------------- by hand


def test_a_share_is_moved_by_15_percent() -> None:
    """A share has no minimum, and what is long loses as much as what is short."""
    assert amounts(model(market_of(spots("A"), "A")), {0: 3.0}, {0: -3.0}) == [45.0, 45.0]


def test_an_index_falls_further_than_it_rises() -> None:
    prepared = model(market_of(spots("A"), "A"), default_type=SPX)
    assert amounts(prepared, {0: 1.0}, {0: -1.0}) == [8.0, 6.0]
    assert prepared.unit.scenarios[prepared.require(rows_of({0: 1.0})).worst[0]] == "down 5"
    assert prepared.unit.scenarios[prepared.require(rows_of({0: -1.0})).worst[0]] == "up 5"


def test_gains_of_a_product_group_count_by_its_share() -> None:
    """100 long against 100 short: falling by 8% it loses 800 less 90% of 800."""
    prepared = model(market_of(spots("ABCD"), "ABCD"), **INDEXES)
    long, against = {0: 100.0}, {0: 100.0, 1: -100.0}
    # Between product groups half of what small has net counts: 75% of a gain is its own.
    wider, alone = {0: 100.0, 2: -100.0}, {0: 100.0, 3: -100.0}
    found = amounts(prepared, long, against, wider, alone)
    falling = 800.0 - 0.5 * 0.75 * 1000.0
    rising = 1000.0 - 0.5 * 0.9 * 600.0
    assert found == pytest.approx([800.0, 80.0, max(falling, rising), 800.0 + 1500.0])


def test_underlyings_of_one_class_net_in_full() -> None:
    market = market_of(spots("AB"), "AB")
    assert amounts(model(market), {0: 1.0, 1: -1.0}) == [30.0]
    one = model(market, class_of={"B": "A"})
    assert amounts(one, {0: 1.0, 1: -1.0}) == [0.0]
    assert one.risk.tables.groups.classes == ("A",)


def test_a_group_of_its_own_is_not_one_of_the_same_name() -> None:
    """Class A is in the product group "B", class B in none."""
    classes = {"A": {"type": SPX, "product_group": "B"}, "B": {"type": SPX}}
    prepared = model(market_of(spots("AB"), "AB"), classes=classes)
    assert amounts(prepared, {0: 1.0, 1: -1.0}) == [14.0]


def test_a_product_group_of_its_own_is_not_a_portfolio_group_of_the_same_name() -> None:
    """Product group "f" is in no portfolio group, product group "g" in the one called "f"."""
    classes = {"A": {"type": SPX, "product_group": "f"}, "B": {"type": SPX, "product_group": "g"}}
    prepared = model(
        market_of(spots("AB"), "AB"),
        classes=classes,
        product_groups={"g": {"portfolio_group": "f"}},
    )
    assert amounts(prepared, {0: 1.0, 1: -1.0}) == [14.0]


def test_a_portfolio_group_that_gains_at_every_point_offsets_no_other() -> None:
    """A long straddle without volatility gains either way: it requires nothing and has no slope."""
    legs = [option("call", "A", vol=0.0), option("put", "A", vol=0.0)]
    prepared = model(market_of([*legs, *spots("B")], "AB"))
    rows = rows_of({0: 1.0, 1: 1.0, 2: 1.0})
    assert prepared.require(rows).amount.tolist() == [15.0]
    assert prepared.loss_rates(rows, rows, "instrument").tolist() == [0.0, 0.0, 15.0]


def test_the_minimum_of_options_and_futures() -> None:
    """0.375 x multiplier on either side, of a long option no more than it is worth."""
    far = option("call", "A", 1000.0)
    contracts = [far, option("put", "A", 50.0, vol=0.2), Contract("future", "A", 50.0, 100.0)]
    prepared = model(market_of([*contracts, *spots("A")], "A"))
    assert amounts(prepared, {0: -2.0}, {0: 2.0}) == pytest.approx([75.0, 2 * far.value(100.0)])
    assert far.value(100.0) < 1e-9
    # A box of futures and shares without a loss: the future has its minimum, shares have none.
    hedged = {2: 1.0, 3: -50.0}
    assert amounts(prepared, hedged) == [0.375 * 50.0]
    required = prepared.require(rows_of(hedged))
    assert required.components["contract_minimum"].tolist() == [18.75]
    assert required.components["valuation_points"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("given", "want"),
    [({}, 37.5), ({"programme": "rbh"}, 25.0), ({"minimum_per_contract": 0.5}, 50.0)],
)
def test_whose_minimum(given: dict[str, Any], want: float) -> None:
    prepared = model(market_of([option("call", "A", 1000.0)], "A"), **given)
    assert amounts(prepared, {0: -1.0}) == [want]


def test_options_are_revalued_in_full() -> None:
    """A short straddle: ten Black-76 values of each leg, not a delta."""
    legs = [option("call", "A"), option("put", "A")]
    (found,) = amounts(model(market_of(legs, "A")), {0: -1.0, 1: -1.0})
    profits = [
        sum(leg.profit(float(move)) for leg in legs) for move in tims_oracle.points(-0.15, 0.15)
    ]
    assert found == pytest.approx(max(profits), rel=1e-12)


# ---------------------------------------------------------------- limits


def test_no_rows_and_no_positions() -> None:
    prepared = model(market_of([*spots("A"), option("call", "A")], "A"))
    assert amounts(prepared) == [] and amounts(prepared, {}) == [0.0]
    found = prepared.require(rows_of({}, {0: 1.0}, {}))
    assert found.amount.tolist() == [0.0, 15.0, 0.0]
    assert not any(math.copysign(1.0, value) < 0 for value in found.amount)


def test_zero_volatility_and_no_time() -> None:
    """What is worth its intrinsic value at every point."""
    legs = [option("call", "A", 90.0, vol=0.0), option("put", "A", 110.0, years=0.0)]
    prepared = model(market_of(legs, "A"))
    assert amounts(prepared, {0: 1.0}, {0: -1.0}, {1: 1.0}, {1: -1.0}) == pytest.approx(
        [1000.0, 1500.0, 1000.0, 1500.0]
    )
    out = [option("call", "A", 200.0, vol=0.0), option("put", "A", 10.0, years=0.0)]
    worthless = model(market_of(out, "A"))
    assert amounts(worthless, {0: 1.0}, {0: -1.0}, {1: 2.0}, {1: -2.0}) == [0.0, 37.5, 0.0, 75.0]


def test_a_price_that_falls_to_nothing() -> None:
    market = market_of([*spots("A"), option("put", "A")], "A")
    prepared = model(market, ranges={"equity_or_narrow_index": [-1.0, 1.0]})
    assert amounts(prepared, {0: 1.0}) == [100.0]
    put = option("put", "A")
    assert amounts(prepared, {1: -1.0}) == pytest.approx([put.profit(-1.0)], rel=1e-12)


def test_all_short() -> None:
    legs = [option(kind, name) for name in "AB" for kind in ("call", "put")]
    prepared = model(market_of(legs, "AB"))
    one, other, both = amounts(
        prepared, {0: -1.0, 1: -1.0}, {2: -1.0, 3: -1.0}, dict.fromkeys(range(4), -1.0)
    )
    assert one > 0.0 and both == pytest.approx(one + other, rel=1e-15)


@pytest.mark.parametrize("size", [1e-160, 1e-6, 1e6, 1e20, 1e150, 1e300])
def test_sizes(size: float) -> None:
    prepared = model(market_of([*spots("ABC"), option("put", "A")], "ABC"), **INDEXES)
    book = {0: 1.0, 1: -2.0, 2: 0.5, 3: -0.1}
    (one,) = amounts(prepared, book)
    (found,) = amounts(prepared, {code: q * size for code, q in book.items()})
    assert found == pytest.approx(one * size, rel=1e-12)


@pytest.mark.parametrize("backend", [NUMPY, STRICT], ids=["numpy", "padded"])
@pytest.mark.parametrize(
    "grouped",
    [{}, INDEXES, {"classes": {name: {"type": SPX, "product_group": "g"} for name in "ABC"}}],
    ids=["apart", "indexes", "one group"],
)
def test_what_overflows_spoils_no_other(grouped: dict[str, Any], backend: Backend) -> None:
    """On any floor: a class, the sum of classes, the sum of groups, and of the groups' worst."""
    prepared = model(market_of(spots("ABC", 1e9), "ABC"), backend, **grouped)
    book = {0: 1.0, 1: -2.0, 2: 0.5}
    (alone,) = amounts(prepared, book)
    huge = [{0: 1e305}, {0: -1e305}, {0: 2e300, 1: 2e300}, dict.fromkeys(range(3), 1e300)]
    with np.errstate(over="ignore", invalid="ignore"):
        found = amounts(prepared, huge[0], book, *huge[1:], book, {})
    assert [found[1], found[5], found[6]] == [alone, alone, 0.0]
    assert found[0] == found[2] == math.inf
    assert not any(math.isnan(one) for one in found)


# ---------------------------------------------------------------- figures and settings


def test_unverified_figures_in_use_are_named() -> None:
    """Only those that the settings leave to the table."""
    cap = "minimum_of_longs_up_to_market_value = True (general knowledge of the rule's text)"
    assert tims.unverified(Parameters()) == [cap]
    found = tims.unverified(Parameters.model_validate({**INDEXES, "programme": "rbh"}))
    assert [one.partition(" = ")[0] for one in found] == [
        "product_group_share.high_cap_broad_index",
        "product_group_share.non_high_cap_broad_index",
        "portfolio_group_share",
        "minimum_per_contract.rbh",
        "minimum_of_longs_up_to_market_value",
    ]
    given = {
        **INDEXES,
        "product_groups": {
            name: {"share": 0.8, "portfolio_group": "indexes"} for name in ("large", "small")
        },
        "portfolio_groups": {"indexes": {"share": 0.4}},
    }
    assert tims.unverified(Parameters.model_validate(given)) == [cap]


def test_every_figure_has_a_source_and_a_status() -> None:
    assert versions() == ["2026-11"]
    folder = Path(gpu_margin.__file__).parent / "parameters" / "tims"
    for version in versions():
        table = json.loads((folder / f"portfolio_margin_{version}.json").read_text("utf-8"))
        for name, figure in table["figures"].items():
            assert set(figure) == {"value", "status", "source"}, name
            assert figure["status"] in ("confirmed", "unverified") and figure["source"], name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"table": "2020-01"}, "unknown table '2020-01'; known versions: 2026-11"),
        ({"default_type": "metal"}, "unknown class type 'metal'.*equity_or_narrow_index"),
        ({"classes": {"A": {"type": "metal"}}}, "unknown class type 'metal'"),
        ({"classes": {"A": {"typ": "metal"}}}, "did you mean 'type'"),
        ({"classes": {"A": {"product_group": "g"}}}, "product_groups.g.*no share is known"),
        ({"product_groups": {"g": {"share": 0.5}}}, "product_groups.g: no class is in it"),
        ({"portfolio_groups": {"f": {}}}, "portfolio_groups.f: no product group is in it"),
        ({"ranges": {"metal": [0.1, 0.2]}}, "ranges.metal.0"),
        ({"ranges": {"metal": [-1.5, 0.2]}}, "ranges.metal.0"),
        ({"ranges": {"metal": [-0.1, math.nan]}}, "ranges.metal.1"),
        ({"minimum_per_contract": -0.1}, "minimum_per_contract"),
        ({"programme": "cme"}, "programme"),
        ({"class_off": {}}, "did you mean 'class_of'"),
        (
            {
                "classes": {
                    "A": {"type": SPX, "product_group": "g"},
                    "B": {"type": RUT, "product_group": "g"},
                }
            },
            "product_groups.g: its classes are of several types",
        ),
        (
            {"classes": {"A": {"product_group": "g"}}, "product_groups": {"g": {"share": 1.1}}},
            "product_groups.g.share",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parameters.model_validate(given)


def test_a_type_of_ones_own() -> None:
    prepared = model(
        market_of(spots("A"), "A"), ranges={"metal": [-0.2, 0.3]}, classes={"A": {"type": "metal"}}
    )
    assert amounts(prepared, {0: 1.0}, {0: -1.0}) == [20.0, 30.0]


def test_a_market_must_say_what_is_a_future() -> None:
    market = market_of(spots("A"), "A")
    market.labels.clear()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="of what kind"):
        tims.check(Parameters(), market)


# ---------------------------------------------------------------- as the house uses it

TIMS: dict[str, Any] = {
    "kind": "tims",
    "allocation": True,
    "classes": {
        "X": {"type": SPX, "product_group": "large"},
        "Y": {"type": SPX, "product_group": "large"},
    },
}
MODELS = {"cov": small_case.covariance(), "tims": TIMS}
CASE = small_case.CASE.with_models(**MODELS)


def contracts_of(case: small_case.Case) -> dict[str, Contract]:
    """The case's instruments as the loops know them."""
    last = {row["factor"]: row["price"] for row in case.history}
    rate = {"USD": 1.0, **{row["currency"]: row["rate"] for row in case.fx}}
    found = {}
    for row in case.instruments:
        scale = (row["multiplier"] or 1.0) * rate[row["currency"]]
        terms = {}
        if row["kind"] in ("call", "put"):
            years = (row["expiry"] - small_case.VALUATION).days / 365.0
            terms = {"strike": row["strike"], "vol": row["implied_vol"], "years": years}
        level = row["forward"] or last[row["underlying"]] if terms else row["price"]
        found[row["instrument_id"]] = Contract(
            row["kind"], row["underlying"], scale, level, **terms
        )
    return found


def test_a_run_agrees_with_loops(tmp_path: Path) -> None:
    """From a TOML file to the folder of results, and explain on it."""
    from gpu_margin.cli import app

    config = small_case.write_case(CASE, tmp_path / "inputs", "csv")
    done = CliRunner().invoke(app, ["run", str(config), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    finished = small_case.sound(gpu_margin.run(config, backend="numpy"))
    mine = finished.sets.filter(pl.col("model") == "tims")
    written = pl.read_parquet(tmp_path / "out" / "sets.parquet")
    assert written.filter(pl.col("model") == "tims").equals(mine)
    how = tims_oracle.Setting(
        type_of={"X": SPX, "Y": SPX},
        product_of={"X": "large", "Y": "large"},
        product_share={"large": 0.9},
    )
    contracts = contracts_of(CASE)
    for row in mine.iter_rows(named=True):
        name = None if row["netting_set"] == row["account_id"] else row["netting_set"]
        held = [
            (contracts[one["instrument_id"]], one["quantity"])
            for one in CASE.positions
            if one["account_id"] == row["account_id"] and one["netting_set"] in (name, "", None)
        ]
        want = tims_oracle.margin(held, how)
        assert row["requirement"] == pytest.approx(want.requirement, rel=1e-11), row
    for account in sorted(set(mine["account_id"])):
        (found,) = explain(tmp_path / "out", account, "tims")
        total = found.positions["contribution"].sum()
        assert total == pytest.approx(found.figures["requirement"], rel=1e-11)
        assert found.positions["worst_pnl"].null_count() == 0
        assert found.figures["worst_scenario"] in ("down 5", "up 5", "down 1", "up 1")


def test_every_floor_as_a_table() -> None:
    """The floors' worst losses are what a run says."""
    frames = small_case.frames(CASE)
    found = tims_terms(CASE.config, backend="numpy", **frames)
    keys = ["account_id", "netting_set"]
    top = found.floors.filter(pl.col("floor") == "portfolio group")
    worst = top.group_by([*keys, "group"]).agg(pl.col("loss").max().clip(0.0))
    sums = worst.group_by(keys).agg(pl.col("loss").sum()).sort(keys)
    sets = small_case.run(CASE).sets.filter(pl.col("model") == "tims").sort(keys)
    both = sets.select(*keys, "requirement").join(sums, on=keys)
    # But for the set whose minimum is more: five long puts and two futures on Y.
    least = pl.col("requirement") != pl.col("loss")
    assert len(both) == len(sets) == 6 and both.filter(least)["netting_set"].to_list() == ["s1"]
    assert both.filter(least)["requirement"][0] == 5 * 0.375 * 1.1 + 2 * 0.375
    classes = found.floors.filter(pl.col("floor") == "class")
    assert set(classes["group"]) == {"X", "Y"} and set(classes["point"]) == set(range(1, 11))
    assert set(found.floors.filter(pl.col("floor") == "product group")["group"]) == {"large"}
    # Account E is long two at 99 on X, which falls by 8% at the first point.
    (first,) = classes.filter((pl.col("account_id") == "E") & (pl.col("point") == 1))["loss"]
    assert first == pytest.approx(15.84)
    assert set(found.figures["status"]) == {"confirmed", "unverified"}
    with pytest.raises(ConfigError, match="no model is of kind"):
        tims_terms(CASE.config, model="cov", **frames)


def test_what_ifs() -> None:
    """What a trade would do is what a run of the positions with it says."""
    loaded = loaded_case(CASE)
    trade = {"whatif_id": "w", "account_id": "A", "instrument_id": "PUTY", "quantity": -5.0}
    (row,) = WhatIf(loaded, NUMPY, model="tims").ask(pl.DataFrame([trade])).table.to_dicts()
    more = [*CASE.positions, small_case.position("A", "PUTY", -5.0)]
    mine = (pl.col("account_id") == "A") & (pl.col("model") == "tims")
    before, after = (
        small_case.run(case).margins.filter(mine)["requirement"][0]
        for case in (CASE, CASE.with_rows("positions", more))
    )
    assert row["before"] == before and row["after"] == pytest.approx(after, rel=1e-14)


def test_the_gate_asks_for_the_worst_fill() -> None:
    """Of two open orders those fills that require most."""
    market = market_of(spots("AB"), "AB")
    prepared = model(market)
    book, marks = rows_of({0: 10.0}), {code: MarkState(100.0, 1.0) for code in (0, 1)}
    parameters = GateParameters(model="tims", stale_seconds=60.0)
    opened = (Order(0, 5.0, 0.0),)
    state = GateState(gate_market(prepared, market, NUMPY), book, opened, 250.0, marks)
    decision = decide(state, Order(1, -5.0, 1.0), parameters)
    # 150 of 10 A, 75 of the open order, and 15 for each B: one is within 250.
    assert decision.action == "shrink" and decision.quantity == -1.0
    state = GateState(gate_market(prepared, market, NUMPY), book, opened, 300.0, marks)
    assert decide(state, Order(1, -5.0, 1.0), parameters).bound == 300.0


def test_a_cure_knows_it_by_its_slopes() -> None:
    """Tangents of the requirement bound it from below, and meet it where they were taken."""
    prepared = model(market_of([*spots("AB"), option("put", "A")], "AB"))
    columns = np.arange(3)
    required = requires(prepared, prepared, columns)
    (part,) = required.parts
    position, other = np.array([1.0, -2.0, 3.0]), np.array([-4.0, 0.0, 1.0])
    assert part.whole.value(position) == required.amount(position)
    (slope,) = part.whole.learn(None, position)
    assert float(slope @ position) == pytest.approx(required.amount(position), rel=1e-12)
    assert float(slope @ other) <= required.amount(other)


def test_a_live_book_follows_fills() -> None:
    """After a fill it says what a run of the new positions says."""
    frames = small_case.frames(CASE)
    live = LiveBook(load_book(CASE.config, **frames), "numpy", **frames)
    row = {"fill_id": "1", "account_id": "A", "instrument_id": "FUTX"}
    row |= {"netting_set": None, "quantity": 3.0, "price": 100.0, "fee": 0.0}
    live.apply([Record(1, "fills", {name: [value] for name, value in row.items()})])
    more = [*CASE.positions, small_case.position("A", "FUTX", 3.0)]
    (want,) = (
        small_case.run(CASE.with_rows("positions", more))
        .margins.filter((pl.col("account_id") == "A") & (pl.col("model") == "tims"))
        .to_dicts()
    )
    found = live.account("A")
    assert found is not None
    assert found["models"]["tims"]["requirement"] == pytest.approx(want["requirement"], rel=1e-14)


def test_many_accounts_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_margin import tiling

    whole = small_case.run(CASE)
    monkeypatch.setattr(tiling, "_TILE_SIZE", 3)
    tiled = small_case.run(CASE)
    assert whole.margins.equals(tiled.margins) and whole.components.equals(tiled.components)


def test_an_account_that_overflows_fails_by_name() -> None:
    huge = CASE.added("positions", small_case.position("E", "FUTX", 1e306))
    finished = small_case.sound(small_case.run(huge))
    mine = finished.margins.filter(pl.col("model") == "tims")
    lost = mine.filter(~pl.col("complete"))
    assert lost["account_id"].to_list() == ["E"]
    others = small_case.run(CASE).margins.filter(pl.col("model") == "tims")
    assert (
        mine.filter(pl.col("complete")).rows() == others.filter(pl.col("account_id") != "E").rows()
    )


def test_instruments_that_are_no_futures_have_no_minimum() -> None:
    """The kind of the instruments table decides: a hedged future has one, a hedged share has not.

    prices of all three are 100, so that one is hedged by another to the cent.
    """
    case = CASE.with_rows(
        "instruments",
        [
            small_case.instrument("F", " Future ", "X", price=100.0, multiplier=10.0),
            small_case.instrument("S", "spot", "X", price=100.0),
            small_case.instrument("T", "spot", "X", price=100.0),
        ],
    ).with_rows(
        "positions",
        [
            small_case.position("future", "F", 1.0),
            small_case.position("future", "S", -10.0),
            small_case.position("share", "T", 10.0),
            small_case.position("share", "S", -10.0),
        ],
    )
    mine = small_case.run(case).margins.filter(pl.col("model") == "tims")
    assert mine["requirement"].to_list() == [3.75, 0.0]


def test_bad_settings_are_named_in_a_run() -> None:
    for given, message in (
        ({"clases": {}}, r"models.tims.*did you mean 'classes'"),
        ({"default_type": "metal"}, r"models.tims.*unknown class type 'metal'"),
    ):
        case = CASE.with_models(tims={"kind": "tims", **given})
        with pytest.raises(ConfigError, match=message):
            small_case.run(case)


def test_a_run_names_the_unverified_figures_that_it_used() -> None:
    """In the manifest by model, and at the top of the report; nothing where all are confirmed."""
    from gpu_margin import report

    finished = small_case.run(CASE)
    found = finished.manifest["unverified"]
    assert found == {"tims": tims.unverified(Parameters(classes=TIMS["classes"]))}
    page = report.render(finished)
    assert "Not confirmed by a public text, of tims: product_group_share.high_cap" in page
    without = small_case.run(CASE.with_models(cov=small_case.covariance()))
    assert "unverified" not in without.manifest
    assert "Not confirmed" not in report.render(without)
