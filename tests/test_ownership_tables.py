"""Owners, venues and agreements: what holds for whom, what fails and why."""

from __future__ import annotations

import math
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_case import CASE, Row, frame, frames, write_case

import gpu_margin
from gpu_margin import loading
from gpu_margin.ownership import Ownership

NAN, INF = math.nan, math.inf


def account(name: Any, owner: Any, venue: Any) -> Row:
    return {"account_id": name, "owner": owner, "venue": venue}


def agreement(owner: Any, venues: Any, share: Any = 0.5) -> Row:
    return {"owner": owner, "venues": venues, "max_offset": share}


# E of the book has no owner; Z has one and is not in the book.
ACCOUNTS = [
    account("A", "ann", "CME"),
    account("B", "ann", "ICE"),
    account("C", "bob", "CME"),
    account("D", "bob", "EUREX"),
    account("Z", "zoe", "LME"),
]


def load(accounts: Any = ACCOUNTS, agreements: Any = None, **other: Any) -> loading.Loaded:
    tables: dict[str, Any] = {**frames(CASE), **other, "accounts": table(accounts)}
    if agreements is not None:
        tables["agreements"] = table(agreements)
    return loading.load(CASE.config, **tables)


def table(rows: Any) -> Any:
    return frame(rows) if isinstance(rows, list) else rows


def ownership_of(loaded: loading.Loaded) -> Ownership:
    assert loaded.ownership is not None
    return loaded.ownership


def failed(loaded: loading.Loaded) -> list[tuple[str, int | None, str | None]]:
    return loaded.failures.select("source", "row", "field").rows()


def agreed(loaded: loading.Loaded) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """Venues and share of each agreement, by owner."""
    ownership = ownership_of(loaded)
    found = ownership.agreements
    answer: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for number, owner in enumerate(found.owner):
        venues = found.venue[found.offsets[number] : found.offsets[number + 1]]
        names = tuple(ownership.venues[int(venue)] for venue in venues)
        answer.setdefault(ownership.owners[int(owner)], []).append(
            (names, float(found.max_offset[number]))
        )
    return answer


# ---------------------------------------------------------------- what is loaded


def test_owners_and_venues_as_they_were_given() -> None:
    for rows in (ACCOUNTS, ACCOUNTS[::-1]):
        loaded = load(rows)
        ownership = ownership_of(loaded)
        assert loaded.failures.is_empty()
        assert ownership.accounts.to_list() == ["A", "B", "C", "D", "Z"]
        assert ownership.owners.to_list() == ["ann", "bob", "zoe"]
        assert ownership.venues.to_list() == ["CME", "EUREX", "ICE", "LME"]
        assert ownership.owner.tolist() == [0, 0, 1, 1, 2]
        assert ownership.venue.tolist() == [0, 2, 0, 1, 3]
        assert ownership.agreement.tolist() == [-1] * 5
        assert len(ownership.agreements) == 0
        assert ownership.agreements.offsets.tolist() == [0]
        assert loaded.counts["owned_accounts"] == 5
        assert loaded.counts["agreements"] == 0


def test_agreements_hold_for_their_owner_or_for_everyone() -> None:
    rows = [agreement("bob", "EUREX;CME", 0.8), agreement("*", "LME;ICE", 0.25)]
    loaded = load(agreements=rows)
    ownership = ownership_of(loaded)
    assert loaded.failures.is_empty()
    everyone = (("ICE", "LME"), 0.25)
    assert agreed(loaded) == {
        "ann": [everyone],
        "bob": [(("CME", "EUREX"), 0.8), everyone],
        "zoe": [everyone],
    }
    assert ownership.agreements.owner.tolist() == [0, 1, 1, 2]
    assert ownership.agreements.offsets.tolist() == [0, 2, 4, 6, 8]
    # A is at CME, in none of ann's agreements; B at ICE; C and D in bob's own; Z at LME.
    assert ownership.agreement.tolist() == [-1, 0, 1, 1, 3]


@pytest.mark.parametrize(
    "venues",
    [
        *("CME;ICE", "ICE;CME", "CME|ICE", "CME,ICE", " CME ; ICE ", "CME;ICE;", ";CME;;ICE"),
        *("CME;ICE;CME", "CME, ICE|CME"),
    ],
)
def test_venues_with_any_separator(venues: str) -> None:
    loaded = load(agreements=[agreement("ann", venues)])
    assert loaded.failures.is_empty()
    assert agreed(loaded) == {"ann": [(("CME", "ICE"), 0.5)]}


def lists(kind: str, folder: Path) -> Any:
    """Two agreements, the second one of a single venue, as a table with lists."""
    values = {"owner": ["ann", "bob"], "venues": [["CME", "ICE"], ["CME"]], "max_offset": [0.5, 1]}
    if kind == "pandas":
        return pd.DataFrame(values)
    if kind == "pandas arrays":
        arrays = [np.array(venues) for venues in values["venues"]]
        return pd.DataFrame(values | {"venues": arrays})
    if kind == "arrow":
        return pa.table(values)
    if kind == "fixed width":
        values["venues"] = [["CME", "ICE"], ["CME", None]]
        return pl.DataFrame(values, schema_overrides={"venues": pl.Array(pl.String, 2)})
    if kind == "parquet":
        pl.DataFrame(values, strict=False).write_parquet(folder / "lists.parquet")
        return folder / "lists.parquet"
    return pl.DataFrame(values, strict=False)


@pytest.mark.parametrize(
    "kind", ["polars", "pandas", "pandas arrays", "arrow", "fixed width", "parquet"]
)
def test_venues_as_a_list(kind: str, tmp_path: Path) -> None:
    loaded = load(agreements=lists(kind, tmp_path))
    assert agreed(loaded) == {"ann": [(("CME", "ICE"), 0.5)]}
    assert loaded.failures.select("row", "field", "value").rows() == [(2, "venues", "CME")]


def test_lists_elsewhere_are_still_no_text() -> None:
    rows = pl.DataFrame({"owner": [["ann"]], "venues": [["CME", "ICE"]], "max_offset": [1.0]})
    assert failed(load(agreements=rows)) == [("agreements", 1, "owner")]
    accounts = pl.DataFrame({"account_id": ["A"], "owner": ["o"], "venue": [["CME"]]})
    assert failed(load(accounts)) == [("accounts", 1, "venue")]
    numbers = pl.DataFrame({"owner": ["ann"], "venues": [[1, 2]], "max_offset": [1.0]})
    assert failed(load(agreements=numbers)) == [("agreements", 1, "venues")]


@pytest.mark.parametrize("share", [0, 0.0, 1, "0.5", 1e-30])
def test_limits_of_max_offset(share: Any) -> None:
    loaded = load(agreements=[agreement("ann", "CME;ICE", share)])
    assert agreed(loaded) == {"ann": [(("CME", "ICE"), float(share))]}


def test_agreements_may_name_owners_and_venues_that_no_account_has() -> None:
    rows = [agreement("nobody", "CME;ICE"), agreement("ann", "CME;MARS"), agreement("*", "X;Y")]
    loaded = load(agreements=rows)
    assert loaded.failures.is_empty()
    assert agreed(loaded)["ann"] == [(("CME", "MARS"), 0.5), (("X", "Y"), 0.5)]
    assert set(agreed(loaded)) == {"ann", "bob", "zoe"}
    assert ownership_of(loaded).agreement.tolist() == [0, -1, -1, -1, -1]


# ---------------------------------------------------------------- overlapping agreements


def reasons(loaded: loading.Loaded) -> dict[int, str]:
    return dict(loaded.failures.select("row", "reason").rows())


def test_a_venue_in_two_agreements_of_an_owner() -> None:
    rows = [
        agreement("ann", "CME;ICE"),
        agreement("ann", "ICE;LME"),
        agreement("ann", "EUREX;SGX"),
        agreement("bob", "CME;ICE"),
    ]
    loaded = load(agreements=rows)
    assert failed(loaded) == [("agreements", 1, "venues"), ("agreements", 2, "venues")]
    assert all("two agreements of one owner" in reason for reason in reasons(loaded).values())
    assert loaded.failures["value"].to_list() == ["CME;ICE", "ICE;LME"]
    assert agreed(loaded) == {
        "ann": [(("EUREX", "SGX"), 0.5)],
        "bob": [(("CME", "ICE"), 0.5)],
    }


def test_circular_agreements_all_fail() -> None:
    rows = [agreement("ann", venues) for venues in ("CME;ICE", "ICE;LME", "LME;CME")]
    loaded = load(agreements=rows)
    assert [row for _, row, _ in failed(loaded)] == [1, 2, 3]
    assert agreed(loaded) == {}


def test_the_same_agreement_twice() -> None:
    loaded = load(agreements=[agreement("ann", "CME;ICE"), agreement("ann", "ICE;CME", 1.0)])
    assert [row for _, row, _ in failed(loaded)] == [1, 2]


def test_an_agreement_of_everyone_against_an_owners_own() -> None:
    rows = [
        agreement("*", "CME;EUREX"),
        agreement("ann", "CME;ICE"),
        agreement("ann", "LME;SGX", 0.75),
        agreement("*", "B3;JPX"),
    ]
    loaded = load(agreements=rows)
    assert failed(loaded) == [("agreements", 2, "venues")]
    assert "for this owner neither holds" in reasons(loaded)[2]
    stays = (("B3", "JPX"), 0.5)
    assert agreed(loaded) == {
        "ann": [stays, (("LME", "SGX"), 0.75)],
        "bob": [stays, (("CME", "EUREX"), 0.5)],
        "zoe": [stays, (("CME", "EUREX"), 0.5)],
    }
    assert ownership_of(loaded).agreement.tolist() == [-1, -1, 3, 3, -1]


def test_two_agreements_of_everyone_fail_for_all() -> None:
    rows = [agreement("*", "CME;EUREX"), agreement("*", "CME;ICE"), agreement("bob", "EUREX;SGX")]
    loaded = load(agreements=rows)
    assert sorted(row for _, row, _ in failed(loaded)) == [1, 2, 3]
    assert agreed(loaded) == {}


def test_a_row_that_fails_by_itself_overlaps_nothing() -> None:
    rows = [agreement("ann", "CME;ICE"), agreement("ann", "CME;ICE", 1.5)]
    loaded = load(agreements=rows)
    assert failed(loaded) == [("agreements", 2, "max_offset")]
    assert agreed(loaded) == {"ann": [(("CME", "ICE"), 0.5)]}


# ---------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        *((field, None, f"missing {field}") for field in ("account_id", "owner", "venue")),
        *((field, "", f"missing {field}") for field in ("account_id", "owner", "venue")),
        ("owner", "*", "every owner"),
        *(("venue", venue, "at one venue") for venue in ("CME;ICE", "CME,ICE", "CME|ICE")),
    ],
)
def test_bad_account(field: str, value: Any, reason: str) -> None:
    loaded = load([ACCOUNTS[0] | {field: value}, *ACCOUNTS[1:]])
    assert failed(loaded) == [("accounts", 1, field)]
    assert reason in loaded.failures["reason"][0]
    assert ownership_of(loaded).accounts.to_list() == ["B", "C", "D", "Z"]


def test_all_copies_of_an_account_fail() -> None:
    loaded = load([*ACCOUNTS, account("A", "bob", "LME"), account("Z", "zoe", "LME")])
    assert sorted(row for _, row, _ in failed(loaded)) == [1, 5, 6, 7]
    assert loaded.failures["reason"].str.contains("duplicate account_id").all()
    assert ownership_of(loaded).accounts.to_list() == ["B", "C", "D"]
    assert ownership_of(loaded).owners.to_list() == ["ann", "bob"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        *((field, None, f"missing {field}") for field in ("owner", "venues", "max_offset")),
        *(("venues", v, "fewer than two venues") for v in ("CME", "CME;CME", "CME;", ";", " | ")),
        *(("max_offset", v, "not finite") for v in (NAN, INF, -INF)),
        *(("max_offset", v, "not a number") for v in ("half", "50%")),
        *(("max_offset", v, "outside [0, 1]") for v in (-0.01, 1.01, 50)),
    ],
)
def test_bad_agreement(field: str, value: Any, reason: str) -> None:
    rows = [agreement("bob", "CME;EUREX"), agreement("ann", "CME;ICE") | {field: value}]
    loaded = load(agreements=rows)
    assert failed(loaded) == [("agreements", 2, field)]
    assert reason in loaded.failures["reason"][0]
    assert agreed(loaded) == {"bob": [(("CME", "EUREX"), 0.5)]}


# ---------------------------------------------------------------- which tables there are


def test_agreements_need_accounts() -> None:
    tables: Any = {**frames(CASE), "agreements": frame([agreement("*", "CME;ICE")])}
    with pytest.raises(gpu_margin.ConfigError, match=r"inputs\.agreements: needs inputs\.accounts"):
        loading.load(CASE.config, **tables)


def test_ownership_changes_no_position_and_no_margin() -> None:
    plain = loading.load(CASE.config, **frames(CASE))
    loaded = load(agreements=[agreement("*", "CME;ICE")])
    assert plain.ownership is None
    assert loaded.portfolio.rows.value.tolist() == plain.portfolio.rows.value.tolist()
    assert loaded.portfolio.accounts.to_list() == plain.portfolio.accounts.to_list()


def test_files_of_the_configuration(tmp_path: Path) -> None:
    config = write_case(CASE, tmp_path, "csv")
    frame(ACCOUNTS).write_csv(tmp_path / "accounts.csv")
    (tmp_path / "agreements.csv").write_text('owner,venues,max_offset\n*,"CME,ICE",1\nbob,A|B,0\n')
    named = 'inputs = { accounts = "accounts.csv", agreements = "agreements.csv", '
    text = config.read_text(encoding="utf-8").replace("inputs = { ", named)
    config.write_text(text, encoding="utf-8")
    loaded = loading.load(config)
    assert loaded.failures.is_empty()
    assert agreed(loaded)["bob"] == [(("A", "B"), 0.0), (("CME", "ICE"), 1.0)]
    assert loaded.inputs["agreements"]["path"] == str(tmp_path / "agreements.csv")
    assert len(loaded.inputs["accounts"]["sha256"]) == 64
    assert loaded.inputs["accounts"]["rows"] == 5


@pytest.mark.parametrize("content", [b"", b"owner\n", b"\xff", b'owner,venues,max_offset\n"*'])
def test_an_unusable_table_fails_as_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    for tables in ({"accounts": path}, {"agreements": path}):
        loaded = load(**tables)
        assert {source for source, _, _ in failed(loaded)} == {"table.csv"}
        assert len(ownership_of(loaded).agreements) == 0
        assert len(ownership_of(loaded)) == (0 if "accounts" in tables else 5)


# ---------------------------------------------------------------- properties

VENUES = ("A", "B", "C", "D", "E", "F")
OWNERS = ("p", "q", "r")
SHARES = st.sampled_from([0.0, 0.5, 1.0, 1.5, NAN, None])
AGREEMENT_ROWS = st.lists(
    st.builds(
        agreement,
        st.sampled_from([*OWNERS, "*", "other", None]),
        st.lists(st.sampled_from(VENUES), max_size=4).map(";".join),
        st.one_of(st.just(0.5), SHARES),
    ),
    min_size=1,
    max_size=8,
)
ACCOUNT_ROWS = st.lists(
    st.builds(
        account,
        st.sampled_from([*"abcdefghij", None]),
        st.sampled_from([*OWNERS, "*", None]),
        st.sampled_from([*VENUES, "A;B", None]),
    ),
    min_size=1,
    max_size=9,
)


def slow_agreements(
    owner: str, rows: list[tuple[str, frozenset[str], float]]
) -> list[tuple[tuple[str, ...], float]]:
    """By the definition: those of the owner and of everyone that share no venue with another."""
    mine = [row for row in rows if row[0] in (owner, "*")]
    clash: set[int] = set()
    for first, second in combinations(range(len(mine)), 2):
        if mine[first][1] & mine[second][1]:
            clash |= {first, second}
    # What clashes among everyone's clashes for every owner, and is among `mine` anyway.
    kept = [(tuple(sorted(row[1])), row[2]) for n, row in enumerate(mine) if n not in clash]
    return sorted(kept)


@settings(max_examples=100, deadline=None)
@given(ACCOUNT_ROWS, AGREEMENT_ROWS)
def test_any_rows_resolve_as_the_definition_says(accounts: list[Row], rows: list[Row]) -> None:
    loaded = load(accounts, rows)
    ownership = ownership_of(loaded)
    names = [row["account_id"] for row in accounts]
    good = {
        row["account_id"]: row
        for row in accounts
        if None not in row.values()
        and row["owner"] != "*"
        and row["venue"] != "A;B"
        and names.count(row["account_id"]) == 1
    }
    assert ownership.accounts.to_list() == sorted(good)
    valid = [
        (row["owner"], frozenset(row["venues"].split(";")), row["max_offset"])
        for row in rows
        if row["owner"] is not None
        and len(set(row["venues"].split(";"))) > 1
        and row["max_offset"] in (0.0, 0.5, 1.0)
    ]
    owners = {row["owner"] for row in good.values()}
    expected = {owner: slow_agreements(owner, valid) for owner in owners}
    assert agreed(loaded) == {owner: found for owner, found in expected.items() if found}
    found = ownership.agreements
    for name, code, owner in zip(
        ownership.accounts, ownership.agreement, ownership.owner, strict=True
    ):
        row = good[name]
        assert ownership.owners[int(owner)] == row["owner"]
        own = [pair for pair in expected[row["owner"]] if row["venue"] in pair[0]]
        assert (code == -1) == (not own)
        if own:
            venues = found.venue[found.offsets[code] : found.offsets[code + 1]]
            assert tuple(ownership.venues[int(venue)] for venue in venues) == own[0][0]
            assert found.owner[code] == owner
    again = ownership_of(load(accounts[::-1], rows[::-1]))
    assert again.agreement.tolist() == ownership.agreement.tolist()
    assert again.agreements.venue.tolist() == ownership.agreements.venue.tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="a*AB;|,\"\n\r'1.5 -é\0", max_size=30), max_size=6), st.booleans())
def test_any_text_in_a_file_never_raises(lines: list[str], of_accounts: bool) -> None:
    header = "account_id,owner,venue" if of_accounts else "owner,venues,max_offset"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes("\n".join([header, *lines]).encode())
        loaded = load(**{"accounts" if of_accounts else "agreements": path})
    assert loaded.failures["reason"].null_count() == 0
    assert len(loaded.portfolio.accounts) == 5
