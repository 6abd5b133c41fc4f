"""What-ifs as tables: recomputed from scratch, bad rows, and the status that follows.

Merged runs and the oracle recompute whole accounts, one for every what-if, from positions with the
trades among them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
import polars as pl
import pytest
import small_case
from random_tables import random_case
from small_case import CASE, Case, frames, position, simulation

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin.failures import ConfigError, InputError
from gpu_margin.loading import Loaded, load
from gpu_margin.whatif import WhatIf

Row = dict[str, Any]
NUMPY = backends.load("numpy")

MODELS = {
    **CASE.config["models"],
    "worst": simulation(measure={"kind": "worst"}),
    "capped": simulation(offset_cap=0.4),
    "mixed": simulation(precision="mixed"),
}
CAPPED = CASE.with_models(**MODELS)


def loaded(case: Case) -> Loaded:
    return load(case.config, **frames(case))


def trade(whatif: Any, account: Any, name: Any, quantity: Any, netting_set: Any = None) -> Row:
    return {**position(account, name, quantity, netting_set), "whatif_id": whatif}


TRADES = [
    trade("more", "A", "FUTX", 2.5),
    trade("close", "A", "CALLX", 3.0),
    trade("more", "A", "PUTY", -1.0),
    trade("close", "A", "FUTX", -1.0),
    trade("nothing", "C", "SPOTX", 0.1),
    trade("nothing", "C", "SPOTX", 0.2),
    trade("nothing", "C", "SPOTX", -0.3),
    trade("isolated", "B", "FUTY", -1.0, "s1"),
    trade("isolated", "B", "FUTX", 1.0, "s2"),
    trade("cross", "B", "FUTX", 1.0),
    trade("opens", "B", "FUTX", 1.0, "s9"),
    trade("opens", "B", "FUTX", -3.0, "s0"),
    trade("both", "D", "PERPY", 1e3),
    trade("both", "E", "LONE", -2.0),
    trade("new", "Z", "LONE", -2.0, "apart"),
]


def merged(case: Case, trades: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Per what-if and account its positions, trades among them."""
    found: dict[tuple[str, str], list[Row]] = {}
    for one in trades:
        account, name = one["account_id"], one["instrument_id"]
        held = [row for row in case.positions if row["account_id"] == account]
        own = found.setdefault((one["whatif_id"], account), held)
        own.append(position(account, name, one["quantity"], one["netting_set"]))
    return found


def cloned(case: Any, trades: list[Row]) -> tuple[list[Row], dict[tuple[str, str], str]]:
    """Positions of an account for every what-if, and its id."""
    positions, ids = list(case.positions), {}
    for number, (key, rows) in enumerate(merged(case, trades).items()):
        ids[key] = f"clone {number}"
        for row in rows:
            own = row.get("netting_set") in (None, key[1])
            name = {"account_id": ids[key], "netting_set": None if own else row["netting_set"]}
            positions.append({**row, **name})
    return positions, ids


def test_every_model_against_a_run_of_the_merged_positions() -> None:
    positions, ids = cloned(CAPPED, TRADES)
    run = small_case.run(CAPPED.with_rows("positions", positions))
    margins = {(row["account_id"], row["model"]): row for row in run.margins.iter_rows(named=True)}
    answers = WhatIf(loaded(CAPPED), NUMPY).ask(small_case.frame(TRADES), allow_new=True)
    assert answers.failures.is_empty()
    assert len(answers.table) == len(ids) * len(MODELS)
    for row in answers.table.iter_rows(named=True):
        after = margins[ids[row["whatif_id"], row["account_id"]], row["model"]]
        slack = {"rel": 1e-12, "abs": 1e-12 * after["gross_exposure"]}
        assert row["after"] == pytest.approx(after["requirement"], **slack), row
        before = margins.get((row["account_id"], row["model"]))
        assert row["before"] == pytest.approx(before["requirement"] if before else 0.0, rel=1e-12)
        assert row["change"] == row["after"] - row["before"]
        assert row["status_after"] is None and row["complete"]
    exact = {(row["whatif_id"], row["model"]): row for row in answers.table.iter_rows(named=True)}
    for model in MODELS:
        assert exact["close", model]["after"] == 0.0
        assert exact["nothing", model]["change"] == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_random_tables_against_the_oracle(seed: int) -> None:
    case = random_case(seed)
    rng = np.random.default_rng(seed)
    owners = sorted({row["account_id"] for row in case.positions})
    names = [row["instrument_id"] for row in case.instruments]
    sets = [None, None, *{row.get("netting_set") for row in case.positions}]
    trades = [
        trade(
            f"w{rng.integers(8)}",
            str(rng.choice(owners)),
            str(rng.choice(names)),
            float(np.round(rng.normal() * 10, 2)),
            sets[rng.integers(len(sets))],
        )
        for _ in range(40)
    ]
    positions, ids = cloned(case, trades)
    figures = oracle.compute(case.config, positions, case.instruments, case.history, case.fx)
    tables = {name: small_case.frame(getattr(case, name)) for name in small_case.TABLES if name}
    tables = {name: table for name, table in tables.items() if len(table)}
    answers = WhatIf(load(case.config, **tables), NUMPY).ask(small_case.frame(trades))
    assert answers.failures.is_empty() and len(answers.table)
    for row in answers.table.iter_rows(named=True):
        expected = figures.accounts[ids[row["whatif_id"], row["account_id"]], row["model"]]
        slack = 1e-9 * expected["gross_exposure"]
        assert row["after"] == pytest.approx(expected["requirement"], rel=1e-8, abs=slack)


def test_the_order_of_rows_and_the_company_change_no_bit() -> None:
    asked = WhatIf(loaded(CAPPED), NUMPY)
    whole = asked.ask(small_case.frame(TRADES), allow_new=True).table
    again = asked.ask(small_case.frame(TRADES[::-1]), allow_new=True).table
    keys = ["whatif_id", "account_id", "model"]
    assert whole.sort(keys).equals(again.sort(keys))
    for name in {one["whatif_id"] for one in TRADES}:
        own = small_case.frame([one for one in TRADES if one["whatif_id"] == name])
        among = WhatIf(loaded(CAPPED), NUMPY, among=own["account_id"])
        assert among.ask(own, allow_new=True).table.equals(
            whole.filter(pl.col("whatif_id") == name)
        )


def test_answers_stand_in_the_order_asked() -> None:
    table = WhatIf(loaded(CASE), NUMPY).ask(small_case.frame(TRADES[:11])).table
    asked = ["more", "close", "nothing", "isolated", "cross", "opens"]
    assert table["whatif_id"].to_list() == [one for one in asked for _ in CASE.config["models"]]
    assert table["model"].to_list() == ["cov", "es"] * len(asked)


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (trade("bad", "nobody", "FUTX", 1.0), "account_id", "unknown account"),
        (trade("bad", None, "FUTX", 1.0), "account_id", "missing account_id"),
        (trade(None, "A", "FUTX", 1.0), "whatif_id", "missing whatif_id"),
        (trade("bad", "A", "NONE", 1.0), "instrument_id", "unknown instrument"),
        (trade("bad", "A", None, 1.0), "instrument_id", "missing instrument_id"),
        (trade("bad", "A", "FUTX", math.nan), "quantity", "not finite"),
        (trade("bad", "A", "FUTX", -math.inf), "quantity", "not finite"),
        (trade("bad", "A", "FUTX", 1e31), "quantity", "out of range"),
        (trade("bad", "A", "FUTX", "two"), "quantity", "not a number"),
        (trade("bad", "A", "FUTX", None), "quantity", "missing quantity"),
    ],
)
def test_a_bad_leg_takes_its_whatif_and_no_other(bad: Row, field: str, reason: str) -> None:
    asked = WhatIf(loaded(CASE), NUMPY)
    good = asked.ask(small_case.frame(TRADES[:4]))
    partner = trade("bad", "C", "SPOTX", 1.0)
    answers = asked.ask(small_case.frame([*TRADES[:4], partner, bad]))
    failure = answers.failures.row(0, named=True)
    assert len(answers.failures) == 1 and reason in failure["reason"]
    assert (failure["row"], failure["field"], failure["source"]) == (6, field, "trades")
    assert answers.table.head(len(good.table)).equals(good.table)
    rest = answers.table.slice(len(good.table))
    assert (rest["after"].null_count() == 0) == (bad["whatif_id"] is None)
    assert set(rest["whatif_id"]) == {"bad"}


def test_tables_without_rows_or_columns_answer_nothing() -> None:
    asked = WhatIf(loaded(CASE), NUMPY)
    for table in (small_case.frame(TRADES).drop("quantity"), small_case.frame(TRADES).clear()):
        answers = asked.ask(table)
        assert answers.table.is_empty() and len(answers.failures) == 1
        assert answers.table.columns[-1] == "complete"


def test_incomplete_and_lost_accounts() -> None:
    """A lost a row and has others; E lost its only one."""
    case = CASE.changed("positions", 1, quantity="x").changed("positions", 8, quantity="x")
    trades = [
        trade("1", "A", "FUTX", 1.0),
        trade("2", "E", "FUTX", 1.0),
        trade("3", "C", "FUTX", 1),
    ]
    answers = WhatIf(loaded(case), NUMPY, model="es").ask(small_case.frame(trades))
    assert answers.table["complete"].to_list() == [False, None, True]
    assert answers.table["after"].is_null().to_list() == [False, True, False]
    assert "no good position" not in answers.failures["reason"][0]
    assert "without a good position row" in answers.failures["reason"][0]
    assert answers.failures["value"].to_list() == ["2"]


def test_the_largest_numbers_are_answered_and_what_leaves_floats_is_a_failure() -> None:
    """A float32 model has no room for them."""
    case = CASE.changed("instruments", 1, multiplier=1e30, price=1e30)
    case = case.with_models(es=simulation(), narrow=simulation(precision="float32"))
    trades = [trade("1", "C", "FUTX", 1e30), trade("2", "C", "SPOTX", 1.0)]
    answers = WhatIf(loaded(case), NUMPY).ask(small_case.frame(trades))
    assert answers.table["after"].is_null().to_list() == [False, True, False, False]
    assert answers.table["after"].drop_nulls().is_finite().all()
    assert answers.failures["value"].to_list() == ["1"]
    assert "narrow: requirement is not finite" in answers.failures["reason"][0]


def test_unknown_models_and_empty_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no model 'x'.*cov, es"):
        WhatIf(loaded(CASE), NUMPY, model="x")
    nobody = CASE.with_rows("positions", [position("A", "NONE", 1.0)])
    with pytest.raises(InputError, match="no account of the run has a good position"):
        WhatIf(loaded(nobody), NUMPY)
    with pytest.raises(ConfigError, match="neither a path nor a table"):
        WhatIf(loaded(CASE), NUMPY).ask(7)


def test_float64_is_what_is_resident() -> None:
    books = WhatIf(loaded(CAPPED), NUMPY)._books
    kinds = {name: type(book).__name__ for name, book in books.items()}
    assert kinds == {
        "cov": "RecomputedBook",
        "es": "ResidentBook",
        "worst": "ResidentBook",
        "capped": "RecomputedBook",
        "mixed": "RecomputedBook",
    }


# ---------------------------------------------------------------- status


def standings(asked: WhatIf, **changes: dict[str, Any]) -> pl.DataFrame:
    """An accounts table in which every account of the case has 1000, but for the changes."""
    empty = small_case.frame([trade(a, a, "FUTX", 0.0) for a in "ABCDE"])
    rows = []
    for row in asked.ask(empty).table.iter_rows(named=True):
        one = {"account_id": row["account_id"], "netting_set": None, "model": row["model"]}
        one |= {"collateral_value": 1000.0, "initial": row["before"]}
        rows.append(one | changes.get(row["account_id"], {}))
    return pl.DataFrame(rows, schema_overrides={"netting_set": pl.String})


def statuses(accounts: pl.DataFrame, trades: list[Row], case: Case = CASE) -> list[str | None]:
    asked = WhatIf(loaded(case), NUMPY, model="es", accounts=accounts)
    return asked.ask(small_case.frame(trades), allow_new=True).table["status_after"].to_list()


def test_the_status_follows_from_the_collateral_of_the_run() -> None:
    """C has the collateral that its 4 contracts require, and not a cent more."""
    asked = WhatIf(loaded(CASE), NUMPY, model="es")
    required = asked.ask(small_case.frame([trade("1", "C", "SPOTX", 1.0)])).table["before"][0]
    assert required > 0.0
    accounts = standings(asked, C={"collateral_value": required})
    deals = {"keeps": 0.0, "less": -2.0, "call": 0.9, "liquidation": 1.1, "short": -9.1}
    trades = [trade(name, "C", "SPOTX", quantity) for name, quantity in deals.items()]
    assert statuses(accounts, trades) == ["ok", "ok", "call", "liquidation", "liquidation"]
    models = {"es": simulation(maintenance=0.5)}
    slack = statuses(accounts, trades, CASE.with_models(**models))
    assert slack == ["ok", "ok", "call", "call", "call"]


def of_b(accounts: pl.DataFrame, values: dict[str, float]) -> pl.DataFrame:
    """The table with rows of B's sets in place of its own."""
    sets = small_case.run(CASE).sets.filter(pl.col("model") == "es", pl.col("account_id") == "B")
    initial = dict(sets.select("netting_set", "requirement").iter_rows())
    rows = [
        {"account_id": "B", "netting_set": name, "model": "es"}
        | {"collateral_value": value, "initial": initial[name]}
        for name, value in values.items()
    ]
    others = accounts.filter(pl.col("account_id") != "B")
    return pl.concat([others, pl.DataFrame(rows, schema=accounts.schema)])


def test_the_status_is_that_of_the_worst_set() -> None:
    """One of B's sets has enough and the other has nothing: what helps is closing that."""
    accounts = standings(WhatIf(loaded(CASE), NUMPY, model="es"))
    trades = [
        trade("buys in s1", "B", "FUTY", 1.0, "s1"),
        trade("closes s2", "B", "FUTX", 1.0, "s2"),
        trade("closes s2, opens", "B", "FUTX", 1.0, "s2"),
        trade("closes s2, opens", "B", "FUTX", 1.0, "s3"),
    ]
    poor, rich = of_b(accounts, {"s1": 1e3, "s2": 0.0}), of_b(accounts, {"s1": 0.0, "s2": 1e3})
    assert statuses(poor, trades) == ["liquidation", "ok", "liquidation"]
    assert statuses(rich, trades[1:2]) == ["liquidation"]
    for known in ("s1", "s2"):
        assert statuses(of_b(accounts, {known: 1e3}), trades[:2]) == [None, None]


def test_accounts_that_have_collateral_only_can_trade() -> None:
    asked = WhatIf(loaded(CASE), NUMPY, model="es")
    accounts = standings(asked)
    rich = accounts.head(1).with_columns(
        pl.lit("RICH").alias("account_id"), pl.lit(0.0).alias("initial")
    )
    trades = [trade("1", "RICH", "FUTX", 1.0), trade("2", "RICH", "FUTX", 1e3)]
    trades += [trade("3", "POOR", "FUTX", 1.0), trade("4", "RICH", "FUTX", 1.0, "apart")]
    found = statuses(pl.concat([accounts, rich]), trades)
    assert found == ["ok", "liquidation", "liquidation", "liquidation"]
    known = WhatIf(loaded(CASE), NUMPY, accounts=pl.concat([accounts, rich]))
    answers = known.ask(small_case.frame(trades[:1]))
    assert answers.failures.is_empty() and answers.table["before"].to_list() == [0.0, 0.0]


@pytest.mark.parametrize(
    "change",
    [{"initial": 1.0}, {"initial": None}, {"collateral_value": None}, {"account_id": "other"}],
)
def test_the_status_is_unknown_where_it_is_not_the_accounts_own(change: Row) -> None:
    """A requirement that is shared with an owner's other accounts, or none at all."""
    accounts = standings(WhatIf(loaded(CASE), NUMPY, model="es"), C=change)
    trades = [trade("1", "C", "SPOTX", 1.0), trade("2", "A", "FUTX", 1.0)]
    assert statuses(accounts, trades) == [None, "ok"]


ASSETS = [
    {"asset": "USD", "price": 1.0, "currency": "USD", "haircut": 0.0},
    {"asset": "BOND", "price": 10.0, "currency": "EUR", "haircut": 0.2},
]


def with_collateral(case: Case, holdings: list[Row], **more: Any) -> dict[str, pl.DataFrame]:
    tables = {"collateral": holdings, "assets": ASSETS, **more}
    return frames(case) | {name: small_case.frame(rows) for name, rows in tables.items()}


def held(account: str, asset: str, amount: float, netting_set: str | None = None) -> Row:
    own = {"account_id": account, "asset": asset, "amount": amount}
    return {**own, "netting_set": netting_set}


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_the_status_is_that_of_a_run_after_the_trades(scale: float) -> None:
    """Every what-if beside an account that has the merged positions and the same collateral."""
    holdings = [held(name, "BOND", scale * 3.0) for name in "ACD"]
    holdings += [held("B", "USD", scale * 30.0, "s1"), held("B", "USD", scale * 12.0, "s2")]
    holdings += [held("B", "USD", scale * 15.0), held("D", "USD", -1.0), held("Z", "USD", 20.0)]
    positions, ids = cloned(CAPPED, TRADES)
    for key, clone in ids.items():
        holdings += [one | {"account_id": clone} for one in holdings if one["account_id"] == key[1]]
    tables = with_collateral(CAPPED.with_rows("positions", positions), holdings)
    run = gpu_margin.run(CAPPED.config, backend="numpy", **tables)
    assert run.accounts is not None
    whole = run.accounts.filter(pl.col("netting_set").is_null())
    after = {(row["account_id"], row["model"]): row for row in whole.iter_rows(named=True)}
    asked = WhatIf(loaded(CAPPED), NUMPY, accounts=run.accounts)
    answers = asked.ask(small_case.frame(TRADES), allow_new=True)
    for row in answers.table.iter_rows(named=True):
        expected = after[ids[row["whatif_id"], row["account_id"]], row["model"]]
        assert row["status_after"] == expected["status"], row
        slack = {"rel": 1e-12, "abs": 1e-12 * 1e6}
        assert row["after"] == pytest.approx(expected["initial"], **slack)
    assert len(set(answers.table["status_after"])) > 1


def test_the_status_is_unknown_with_netting_between_venues() -> None:
    """A and C are one owner's at two venues, who saves by it; D is nobody's."""
    case = CASE.changed("positions", 6, quantity=-9.0)
    owners = [
        {"account_id": name, "owner": "o" if name != "D" else "d", "venue": venue}
        for name, venue in (("A", "v"), ("C", "w"), ("D", "w"))
    ]
    agreements = [{"owner": "o", "venues": "v;w", "max_offset": 1.0}]
    holdings = [held(name, "USD", 1e6) for name in "ABCDE"]
    tables = with_collateral(case, holdings, accounts=owners, agreements=agreements)
    run = gpu_margin.run(case.config, backend="numpy", **tables)
    assert run.owners is not None and (run.owners["saving"] > 0.0).all()
    asked = WhatIf(loaded(case), NUMPY, accounts=run.accounts)
    trades = [trade(name, name, "FUTX", 1.0) for name in "ACD"]
    found = asked.ask(small_case.frame(trades)).table["status_after"].to_list()
    assert found == [None, None, None, None, "ok", "ok"]
