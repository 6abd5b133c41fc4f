"""What-ifs on SPAN margin: what was asked, from the beginning, and in one batch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import gpu_margin
from gpu_margin import demo_span, span_files
from gpu_margin.failures import ConfigError
from gpu_margin.span_files import read_file
from gpu_margin.span_run import whatif
from gpu_margin.span_whatif import WhatIfs

POSITIONS = pl.read_csv(io.StringIO(demo_span.POSITIONS))
ACCOUNTS = pl.read_csv(io.StringIO(demo_span.ACCOUNTS))
CRUDE = "DMO:CR:FUT:202702"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("span") / "span.pa2"
    path.write_text(demo_span.pa2())
    return read_file(path)[0]


def asked(file: Any, *changes: dict[str, Any], positions: Any = POSITIONS, **more: Any) -> WhatIfs:
    return whatif(list(changes), file, positions, ACCOUNTS, backend="numpy", **more)


def required(file: Any, positions: pl.DataFrame, **more: Any) -> dict[tuple[str, str], float]:
    """What every account requires in each currency, from the beginning."""
    run = gpu_margin.span(file, positions, ACCOUNTS, backend="numpy", **more)
    rows = run.totals.select("account_id", "currency", "requirement")
    return {(account, currency): amount for account, currency, amount in rows.iter_rows()}


def change(
    account: str | None, contract: str, quantity: float | None, **more: Any
) -> dict[str, Any]:
    return {"account_id": account, "contract_id": contract, "quantity": quantity, **more}


def with_row(account: str, contract: str, quantity: float) -> pl.DataFrame:
    row = pl.DataFrame([(account, contract, quantity)], schema=POSITIONS.columns, orient="row")
    return pl.concat([POSITIONS.cast({"quantity": float}), row])


# ---------------------------------------------------------------- from the beginning


@pytest.mark.parametrize("level", ["maintenance", "initial"])
@pytest.mark.parametrize("account", ACCOUNTS["account_id"].to_list())
def test_after_is_a_margin_from_the_beginning(file: Any, account: str, level: str) -> None:
    """Of every account, also those margined gross and in two currencies."""
    found = asked(file, change(account, CRUDE, -7.0), level=level)
    before = required(file, POSITIONS, level=level)
    after = required(file, with_row(account, CRUDE, -7.0), level=level)
    rows = found.whatifs.to_dicts()
    assert {row["currency"] for row in rows} == {one for name, one in after if name == account}
    for row in rows:
        key = (account, row["currency"])
        assert row["before"] == before.get(key, 0.0) and row["after"] == after[key]
        assert row["change"] == row["after"] - row["before"] and row["complete"]
    assert found.failures.is_empty() and found.count == 1


def test_a_removal_takes_the_whole_position(file: Any) -> None:
    found = asked(file, change("refiner", "DMO:GO:FUT:202702", None, action="remove"))
    kept = POSITIONS.filter(
        ~((pl.col("account_id") == "refiner") & (pl.col("contract_id") == "DMO:GO:FUT:202702"))
    )
    (row,) = found.whatifs.to_dicts()
    assert row["after"] == required(file, kept)["refiner", "USD"]


def test_both_sides_of_a_gross_account_are_removed(file: Any) -> None:
    name = "DMO:CR:FUT:202701"
    found = asked(file, change("omnibus", name, None, action="remove"))
    kept = POSITIONS.filter(
        ~((pl.col("account_id") == "omnibus") & (pl.col("contract_id") == name))
    )
    (row,) = found.whatifs.to_dicts()
    assert row["after"] == required(file, kept)["omnibus", "USD"] < row["before"]


def test_removing_and_adding_one_contract_replaces_the_position(file: Any) -> None:
    found = asked(
        file, change("refiner", CRUDE, None, action="remove"), change("refiner", CRUDE, 12.0)
    )
    (row,) = found.whatifs.to_dicts()
    assert row["after"] == required(file, with_row("refiner", CRUDE, -18.0))["refiner", "USD"]


def test_everything_may_be_removed(file: Any) -> None:
    own = POSITIONS.filter(pl.col("account_id") == "power-desk")["contract_id"]
    found = asked(file, *(change("power-desk", name, None, action="remove") for name in own))
    assert found.whatifs["currency"].to_list() == ["EUR", "USD"]
    assert found.whatifs["after"].to_list() == [0.0, 0.0] and found.whatifs["complete"].all()


def test_a_portfolio_by_itself_has_no_before(file: Any) -> None:
    found = asked(file, change(None, CRUDE, 3.0), level="initial", account_type="speculator")
    (row,) = found.whatifs.to_dicts()
    assert row["account_id"] is None and row["before"] is None and row["change"] is None
    assert row["after"] == pytest.approx(3 * 5000 * 1.1) and row["complete"]


def test_changes_of_a_table_in_their_order(file: Any, tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    path.write_text(demo_span.CHANGES)
    found = whatif(path, file, POSITIONS, ACCOUNTS, backend="numpy")
    assert found.whatifs["whatif_id"].to_list() == ["buy wings", "no gasoil", "a crack by itself"]
    frame = whatif(pl.read_csv(path), file, POSITIONS, ACCOUNTS, backend="numpy")
    assert_frame_equal(found.whatifs, frame.whatifs)
    assert found.manifest["counts"]["whatifs"] == 3 and found.manifest["level"] == "maintenance"


def test_one_id_for_several_accounts_is_a_whatif_of_each(file: Any) -> None:
    rows = [change(name, CRUDE, 1.0, whatif_id="all") for name in ("refiner", "collar")]
    found = asked(file, *rows)
    alone = [asked(file, row).whatifs for row in rows]
    assert_frame_equal(found.whatifs, pl.concat(alone))


def test_in_one_currency(file: Any) -> None:
    found = asked(file, change("power-desk", "DMO:PW:FUT:202701", -10.0), currency="EUR")
    (row,) = found.whatifs.to_dicts()
    kept = required(file, with_row("power-desk", "DMO:PW:FUT:202701", -10.0), currency="EUR")
    assert row["currency"] == "EUR" and row["after"] == kept["power-desk", "EUR"]


def test_many_at_once_are_each_as_alone(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    names, accounts = file.contracts.ids.to_list(), ACCOUNTS["account_id"].to_list()
    rows = [
        change(accounts[number % 6], names[place], float(quantity), whatif_id=str(number // 2))
        for number, (place, quantity) in enumerate(
            zip(random.integers(0, 84, 60), random.integers(-9, 9, 60), strict=True)
        )
    ]
    together = asked(file, *rows).whatifs
    monkeypatch.setattr(span_files, "_ACCOUNTS", 5)
    assert_frame_equal(asked(file, *rows).whatifs, together, check_exact=True)
    for key, one in list(together.group_by("whatif_id", "account_id", maintain_order=True))[:12]:
        own = [row for row in rows if (row["whatif_id"], row["account_id"]) == key]
        assert_frame_equal(asked(file, *own).whatifs, one, check_exact=True)


# ---------------------------------------------------------------- what cannot be answered


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (change("refinery", CRUDE, 1.0), "account_id", "unknown account"),
        (change("refiner", "DMO:CR:FUT:20272", 1.0), "contract_id", "did you mean"),
        (change("refiner", CRUDE, None), "quantity", "missing quantity"),
        (change("refiner", CRUDE, float("inf")), "quantity", "not finite"),
        (change("refiner", CRUDE, 1.0, action="sell"), "action", "neither add nor remove"),
        (change("refiner", CRUDE, 1.0, action="remove"), "quantity", "takes the whole position"),
        (
            change("collar", CRUDE, None, action="remove"),
            "contract_id",
            "the account does not hold it",
        ),
        (
            change(None, CRUDE, None, action="remove"),
            "contract_id",
            "the account does not hold it",
        ),
    ],
)
def test_a_bad_row_fails_its_whatif_and_no_other(
    file: Any, row: dict[str, Any], field: str, reason: str
) -> None:
    good = change("refiner", CRUDE, 1.0, whatif_id="good")
    # The other row of a what-if cannot be answered without the bad one.
    partner = change(row["account_id"], "DMO:CR:FUT:202703", 2.0, whatif_id="bad")
    found = asked(
        file, good, {**row, "whatif_id": "bad"}, *([partner] if row["account_id"] else [])
    )
    (failure, *more) = found.failures.to_dicts()
    assert failure["field"] == field and reason in failure["reason"] and failure["row"] == 2
    assert failure["source"] == "changes" and len(more) == int(row["account_id"] == "refinery")
    bad = found.whatifs.filter(pl.col("whatif_id") == "bad").to_dicts()
    before = required(file, POSITIONS).get((row["account_id"], "USD"))
    assert [(one["before"], one["after"], one["complete"]) for one in bad] == [
        (before, None, False)
    ]
    kept = found.whatifs.filter(pl.col("whatif_id") == "good")
    assert_frame_equal(kept, asked(file, good).whatifs)


def test_what_is_refused_is_null_after(file: Any, tmp_path: Path) -> None:
    path = tmp_path / "basis.pa2"
    path.write_text(demo_span.pa2().replace("4 GASOIL10", "4 GASOIL11"))
    found = asked(path, change("collar", "DMO:GO:FUT:202702", 1.0), change("refiner", CRUDE, 1.0))  # type: ignore[arg-type]
    rows = {row["account_id"]: row for row in found.whatifs.to_dicts()}
    assert len(found.whatifs) == 2
    assert rows["collar"]["after"] is None and rows["collar"]["before"] > 0.0
    assert rows["refiner"]["after"] is rows["refiner"]["before"] is None
    assert not found.whatifs["complete"].any()
    sources = set(found.failures["source"])
    assert {"refiner", "what-if changes, collar"} <= sources


def test_an_incomplete_account_stays_so(file: Any) -> None:
    found = asked(file, change("refiner", CRUDE, 1.0), positions=with_row("refiner", "X", 1.0))
    assert found.whatifs["complete"].to_list() == [False]
    assert found.whatifs["after"].null_count() == 0 and len(found.failures) == 1


@pytest.mark.parametrize("changes", [[], pl.DataFrame({"contract_id": []})])
def test_no_changes_are_refused(file: Any, changes: Any) -> None:
    with pytest.raises(ConfigError, match="changes: "):
        whatif(changes, file, POSITIONS, ACCOUNTS, backend="numpy")
    with pytest.raises(ConfigError, match="missing column"):
        whatif(pl.DataFrame({"account_id": ["a"]}), file, POSITIONS, backend="numpy")
