"""What-ifs on a crypto venue: by hand, against a calculation from the beginning, and what fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
from crypto_toy import Toy, toy_inputs
from polars.testing import assert_frame_equal

import gpu_margin
from gpu_margin import crypto_batches, demo_crypto
from gpu_margin.crypto_requests import read
from gpu_margin.crypto_run import whatif
from gpu_margin.crypto_whatif import WhatIfs
from gpu_margin.failures import ConfigError

SETS = [
    ("a", "s", {"BTC": 1.0, "BTC-PERP": -3.0}, 50.0),
    ("b", "btc", {"BTC-C-100": -2.0, "BTC-PERP": 1.0}, 20.0),
    ("b", "eth", {"ETH-PERP": 4.0}, 30.0),
]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    found = Toy()
    monkeypatch.setattr(crypto_batches, "rulebook", lambda kind: found)
    return found


def ask(*requests: Any, sets: Any = SETS, **options: Any) -> WhatIfs:
    return whatif(list(requests), "toy", toy_inputs(sets), **options)


def initial(found: WhatIfs) -> list[dict[str, Any]]:
    return found.whatifs.filter(pl.col("level") == "initial").to_dicts()


# ---------------------------------------------------------------- by hand


def test_a_trade_on_top_of_the_positions(toy: Toy) -> None:
    found = ask({"account": "a", "simulated_positions": {"BTC-PERP": 2.0}})
    assert found.whatifs.to_dicts() == [
        {
            "whatif_id": "1",
            "account_id": "a",
            "netting_set": "s",
            "market": "BTC",
            "level": level,
            "before": before,
            "after": after,
            "change": after - before,
            "margin_value_before": 150.0 - before,
            "margin_value": 150.0 - after,
            "margin_value_change": before - after,
            "worst_scenario_before": "down",
            "worst_scenario": "down",
            "complete": True,
        }
        for level, before, after in (("initial", 80.0, 40.0), ("maintenance", 40.0, 20.0))
    ]
    assert found.failures.is_empty() and found.manifest["counts"]["whatifs"] == 1


def test_instead_of_the_derivatives_coins_and_cash_stay(toy: Toy) -> None:
    trades = {"BTC-FUT": 1.0}
    (one,) = initial(ask({"account": "a", "simulated_positions": trades, "add_positions": False}))
    assert one["after"] == pytest.approx(0.2 * (100.0 + 102.0))
    assert one["margin_value"] == pytest.approx(150.0 - one["after"])


def test_a_portfolio_by_itself(toy: Toy) -> None:
    trades = {"ETH-PERP": -3.0}
    (one,) = initial(ask({"simulated_positions": trades, "add_positions": False, "cash": 9.0}))
    assert one["account_id"] is None and one["before"] is None and one["change"] is None
    assert one["market"] == "ETH"
    assert one["after"] == pytest.approx(6.0) and one["margin_value"] == pytest.approx(3.0)


def test_nothing_at_all_by_itself(toy: Toy) -> None:
    (one,) = initial(ask({"simulated_positions": {}, "add_positions": False}))
    assert one["after"] == 0.0 and one["margin_value"] == 0.0 and one["worst_scenario"] is None


def test_cash_alone_changes_the_value_only(toy: Toy) -> None:
    (one,) = initial(ask({"account": "a", "cash": -12.5}))
    assert one["change"] == 0.0 and one["margin_value_change"] == -12.5


def test_prices_are_paid_for_coins_and_owed_to_the_mark_for_perpetuals(toy: Toy) -> None:
    perpetual = {"simulated_positions": {"BTC-PERP": -2.0}, "prices": {"BTC-PERP": 103.0}}
    coin = {"simulated_positions": {"BTC": 2.0}, "prices": {"BTC": 97.0}}
    free = {"simulated_positions": {"BTC": 2.0}}
    sets = [("a", "s", {}, 1000.0)]
    asked = [
        {"account": "a", "whatif_id": str(n), **one}
        for n, one in enumerate((perpetual, coin, free))
    ]
    first, second, third = initial(ask(*asked, sets=sets))
    assert first["margin_value"] == pytest.approx(1000.0 + 6.0 - 40.0)
    assert second["margin_value"] == pytest.approx(1000.0 - 194.0 + 200.0 - 40.0)
    assert third["margin_value"] == pytest.approx(1000.0 + 200.0 - 40.0)


def test_the_set_is_found_by_name_or_market(toy: Toy) -> None:
    trades = {"simulated_positions": {"ETH-PERP": -4.0}}
    found = ask(
        {"account": "b", "netting_set": "eth", **trades},
        {"account": "b", "currency": "ETH", **trades},
        {"netting_set": "eth", **trades},
        {"account_id": "b", "market": "ETH", "positions": {"ETH-PERP": -4.0}},
    )
    assert found.failures.is_empty()
    assert [one["after"] for one in initial(found)] == [0.0] * 4
    assert [one["netting_set"] for one in initial(found)] == ["eth"] * 4


# ---------------------------------------------------------------- batches


def test_a_batch_is_margined_in_one_call_with_each_base_once(toy: Toy) -> None:
    asked = [{"account": "a", "simulated_positions": {"BTC-PERP": 0.1 * n}} for n in range(50)]
    ask(*asked)
    assert toy.calls == 1 and toy.sets == 51


def test_the_order_and_the_company_change_no_bit(toy: Toy) -> None:
    asked = [
        {
            "whatif_id": "x",
            "account": "b",
            "netting_set": "btc",
            "simulated_positions": {"BTC": 0.1},
        },
        {"whatif_id": "y", "account": "a", "simulated_positions": {"BTC-P-100": -0.7}},
        {"whatif_id": "z", "simulated_positions": {"ETH": 0.3}, "add_positions": False},
    ]
    together = ask(*asked).whatifs
    backwards = ask(*asked[::-1]).whatifs
    for one in asked:
        alone = ask(one).whatifs
        for batch in (together, backwards):
            own = batch.filter(pl.col("whatif_id") == one["whatif_id"])
            assert_frame_equal(own, alone, check_exact=True)


@pytest.mark.parametrize("kind", ["derive_pm2", "derive_pm1", "derive_standard", "deribit_pm"])
def test_the_bits_of_a_calculation_from_the_beginning(kind: str) -> None:
    """The same trades written into the positions."""
    trades = {"BTC-20260327-126000-C": 3.0, "BTC-PERP": -0.3, "BTC-20260130-81000-P": -0.1}
    feeds, positions = demo_crypto.feeds(), demo_crypto.positions()
    balances = demo_crypto.balances()
    request = {
        "account": "straddle-seller",
        "netting_set": "btc",
        "simulated_positions": trades,
        "cash": 17.0,
    }
    found = whatif(request, kind, feeds, positions, balances, backend="numpy")
    owner = {"account_id": "straddle-seller", "netting_set": "btc"}
    rows = [{**owner, "instrument_id": name, "quantity": size} for name, size in trades.items()]
    paid = pl.DataFrame([{**owner, "asset": "USDC", "amount": 17.0, "kind": "cash"}])
    written = gpu_margin.crypto(
        kind,
        feeds,
        pl.concat([positions, pl.DataFrame(rows)]),
        pl.concat([balances, paid]),
        backend="numpy",
    ).margins
    plain = gpu_margin.crypto(kind, feeds, positions, balances, backend="numpy").margins
    own = (pl.col("account_id") == "straddle-seller") & (pl.col("netting_set") == "btc")
    after, before = written.filter(own), plain.filter(own)
    table = found.whatifs
    assert table["after"].null_count() == 0
    assert table["before"].to_list() == before["requirement"].to_list()
    assert table["after"].to_list() == after["requirement"].to_list()
    assert table["margin_value_before"].to_list() == before["margin_value"].to_list()
    assert table["margin_value"].to_list() == after["margin_value"].to_list()
    assert table["worst_scenario"].to_list() == after["worst_scenario"].to_list()


def test_instead_has_the_bits_of_a_calculation_from_the_beginning() -> None:
    feeds, balances = demo_crypto.feeds(), demo_crypto.balances()
    trades = {"ETH-20260327-3300-C": -4.0}
    request = {"account": "overwriter", "simulated_positions": trades, "add_positions": False}
    found = whatif(request, "derive_pm2", feeds, demo_crypto.positions(), balances, backend="numpy")
    owner = {"account_id": "overwriter", "netting_set": "eth"}
    rows = [{**owner, "instrument_id": name, "quantity": size} for name, size in trades.items()]
    written = gpu_margin.crypto(
        "derive_pm2", feeds, pl.DataFrame(rows), balances, backend="numpy"
    ).of("overwriter")
    assert found.whatifs["after"].to_list() == written.margins["requirement"].to_list()
    assert found.whatifs["margin_value"].to_list() == written.margins["margin_value"].to_list()


# ---------------------------------------------------------------- what fails


BAD: list[tuple[Any, str, str]] = [
    (
        {"account": "a", "simulated_positions": {"BTX": 1}},
        "simulated_positions",
        "unknown instrument",
    ),
    ({"account": "x", "simulated_positions": {"BTC": 1}}, "account", "unknown"),
    ({"netting_set": "x", "simulated_positions": {"BTC": 1}}, "netting_set", "unknown"),
    ({"account": "b", "simulated_positions": {"BTC": 1}}, "netting_set", "several"),
    (
        {"account": "b", "netting_set": "s", "simulated_positions": {}},
        "netting_set",
        "no netting set",
    ),
    ({"simulated_positions": {"BTC": 1}}, "add_positions", "needs an account"),
    ({"account": "a"}, "simulated_positions", "nothing is asked"),
    ({"account": "a", "simulated_positions": {"BTC": "1"}}, "simulated_positions.BTC", "finite"),
    ({"account": "a", "simulated_positions": {"BTC": True}}, "simulated_positions.BTC", "finite"),
    (
        {"account": "a", "simulated_positions": {"BTC": float("nan")}},
        "simulated_positions.BTC",
        "finite",
    ),
    ({"account": "a", "simulated_positions": {"BTC": 1e31}}, "simulated_positions.BTC", "1e30"),
    ({"account": "a", "simulated_positions": [1]}, "simulated_positions", "map"),
    ({"account": "a", "cash": float("inf")}, "cash", "finite"),
    ({"account": 3, "cash": 1}, "account", "text"),
    ({"account": "a", "cash": 1, "add_positions": "yes"}, "add_positions", "true or false"),
    ({"account": "a", "cash": 1, "prices": {"BTC": 3}}, "prices", "not among"),
    ({"account": "a", "simulate": {"BTC": 1}}, "simulate", "did you mean 'simulated_positions'"),
    (["BTC"], "whatif", "table of keys"),
]


@pytest.mark.parametrize(("bad", "field", "reason"), BAD)
def test_a_bad_whatif_is_a_failure_and_the_others_go_on(
    toy: Toy, bad: Any, field: str, reason: str
) -> None:
    good = {"account": "a", "simulated_positions": {"BTC-PERP": 2.0}}
    found = ask(good, bad, {"whatif_id": "last", **good})
    (failure,) = found.failures.to_dicts()
    assert failure["row"] == 2 and failure["field"] == field and reason in failure["reason"]
    first, second, third = initial(found)
    assert second["after"] is None and second["complete"] is False
    assert first["after"] == third["after"] == 40.0 and third["whatif_id"] == "last"


def test_nothing_but_bad_ones(toy: Toy) -> None:
    found = ask({"account": "x", "cash": 1.0})
    assert found.whatifs["after"].to_list() == [None, None]
    assert found.whatifs["level"].to_list() == ["initial", "maintenance"]


def test_a_set_that_the_rulebook_refuses(toy: Toy) -> None:
    sets = [("a", "refused", {"BTC": 1.0}, 50.0)]
    found = ask({"account": "a", "simulated_positions": {"BTC": 1.0}}, sets=sets)
    (one,) = initial(found)
    assert one["before"] is None and one["after"] == pytest.approx(40.0)
    assert found.failures["reason"].to_list() == ["the toy does not like it"]


def test_what_the_rulebook_refuses_of_a_whatif_has_its_number() -> None:
    asked = [
        {"account": "put-buyer", "simulated_positions": {"BTC-PERP": -1.0}},
        {"account": "put-buyer", "simulated_positions": {"ETH-PERP": -1.0}},
    ]
    found = whatif(
        asked,
        "derive_pm2",
        demo_crypto.feeds(),
        demo_crypto.positions(),
        demo_crypto.balances(),
        backend="numpy",
    )
    (failure,) = found.failures.to_dicts()
    assert failure["row"] == 2 and failure["source"] == "what-if 2"
    assert "several underlyings" in failure["reason"]
    assert [one["after"] is None for one in initial(found)] == [False, True]


def test_names_must_differ(toy: Toy) -> None:
    one: Mapping[str, Any] = {"whatif_id": "x", "account": "a", "cash": 1.0}
    found = ask(one, one)
    assert "another what-if has this name" in found.failures["reason"][0]
    assert [row["after"] is None for row in initial(found)] == [False, True]


@pytest.mark.parametrize("given", [[], {"whatifs": []}, "BTC", 3])
def test_no_whatif_at_all(toy: Toy, given: Any) -> None:
    with pytest.raises(ConfigError, match="give one request"):
        whatif(given, "toy", toy_inputs(SETS))


def test_files_of_requests(tmp_path: Any) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ConfigError, match=r"x\.json"):
        read(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read(path)
    path.write_text('{"whatifs": [{"cash": 1}]}')
    assert read(path) == {"whatifs": [{"cash": 1}]}
