"""SPAN XML against the slow reader: every figure of random files, and margins by them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from span_case import tables_of
from span_oracle_xml import parse_spn, rate_for
from span_random import model
from span_random_xml import as_xml
from span_xml_case import read

from gpu_margin.span_tables import ACCOUNT_TYPES, SpanTables


def sorted_by_all(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort(frame.columns)


def contracts(tables: SpanTables) -> tuple[pl.DataFrame, np.ndarray]:
    """Contracts by their ids, and their arrays in money."""
    own = tables.contracts.with_row_index("place").sort("contract_id")
    values = tables.arrays[own["place"]] / 10.0 ** own["decimals"].to_numpy()[:, None]
    return own.drop("place", "decimals", "row"), values


def within(tables: SpanTables) -> pl.DataFrame:
    """Legs of spreads within commodities, with their spread and its place in its commodity."""
    place = pl.int_range(pl.len()).over("combined_commodity").alias("place")
    spreads = tables.intra.with_columns(place).with_row_index("spread")
    legs = tables.intra_legs.with_columns(pl.col("spread").cast(pl.UInt32))
    joined = legs.join(spreads, on="spread", maintain_order="left").drop("spread", "name")
    return joined.sort("combined_commodity", "place", maintain_order=True)


def between(tables: SpanTables) -> pl.DataFrame:
    """Legs of spreads between commodities in the order in which spreads are formed."""
    spreads = tables.inter.with_row_index("spread")
    spreads = spreads.sort(pl.col("above").not_(), maintain_order=True).with_row_index("place")
    legs = tables.inter_legs.with_columns(pl.col("spread").cast(pl.UInt32))
    joined = legs.join(spreads, on="spread", maintain_order="left").drop("spread", "name")
    return joined.sort("place", maintain_order=True)


def splits(tables: SpanTables) -> pl.DataFrame:
    names = tables.contracts["contract_id"]
    contract, leg = names[tables.splits["contract"]], names[tables.splits["leg"]]
    own = tables.splits.with_columns(contract.alias("contract"), leg.alias("leg"))
    return sorted_by_all(own)


def assert_equal(found: SpanTables, wanted: SpanTables, level: str, account: str) -> None:
    assert found.failures.is_empty() and found.limit == wanted.limit
    mine, values = contracts(found)
    other, expected = contracts(wanted)
    assert mine.equals(other)
    assert np.array_equal(values, expected)
    for name in ("tiers", "ranges", "delivery", "rates"):
        one, two = getattr(found, name), getattr(wanted, name)
        assert sorted_by_all(one).equals(sorted_by_all(two)), name
    assert within(found).equals(within(wanted))
    assert between(found).equals(between(wanted))
    assert splits(found).equals(splits(wanted))
    figure = f"{'ratio' if level == 'initial' else 'factor'}_{account}"
    same = ["combined_commodity", "currency", "limit", "wfpr", "scan_by_month", "inter_by_month"]
    same += ["minimum_rate", "minimum_greater", "refused", figure]
    order = found.commodities.sort("combined_commodity")
    assert order.select(same).equals(wanted.commodities.select(same).fill_null(""))
    for one, two in zip(order["grid"], wanted.commodities["grid"], strict=True):
        assert np.array_equal(found.grids[one].pair, wanted.grids[two].pair)
        assert np.array_equal(found.grids[one].still, wanted.grids[two].still)


def classes(text: str) -> list[tuple[str, bool, int]]:
    """Account types and levels that a file has, with their rate ids."""
    found = []
    for account in ACCOUNT_TYPES:
        for initial in (False, True):
            try:
                found.append((account, initial, rate_for(text, account, initial)))
            except ValueError:
                continue
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_figure(seed: int, tmp_path: Path) -> None:
    text = as_xml(model(seed))
    found, known = read(text, tmp_path), classes(text)
    assert known
    for account, initial, rate in known:
        level = "initial" if initial else "maintenance"
        assert f"{account} {level}" in found.facts["account_types"]
        assert_equal(found, tables_of(parse_spn(text, rate)), level, account)


@pytest.mark.parametrize("seed", range(4))
def test_elements_in_any_order(seed: int, tmp_path: Path) -> None:
    """Families, definitions and what is in them may come in any order."""
    text = as_xml(model(seed))
    start, end = text.index("<exchange>"), text.index("</exchange>") + len("</exchange>")
    moved = text[:start] + text[end:].replace("</clearingOrg>", text[start:end] + "</clearingOrg>")
    rng = random.Random(seed)
    for name in ("series", "opt", "fut"):
        for part in sorted(set(pieces(moved, name))):
            children = elements(part)
            shuffled = rng.sample(children, len(children))
            moved = moved.replace(
                f"<{name}>{part}</{name}>", f"<{name}>{''.join(shuffled)}</{name}>"
            )
    assert moved != text
    one, other = read(text, tmp_path), read(moved, tmp_path)
    (mine, values), (yours, expected) = contracts(one), contracts(other)
    assert mine.equals(yours) and np.array_equal(values, expected)
    assert one.commodities.equals(other.commodities) and within(one).equals(within(other))


def pieces(text: str, name: str) -> list[str]:
    """What is in all elements of a name, which are not in each other."""
    return [part.split(f"</{name}>")[0] for part in text.split(f"<{name}>")[1:]]


def elements(text: str) -> list[str]:
    """The elements right in a text, one by one."""
    found = []
    while text:
        name = text[1 : text.index(">")]
        end = text.index(f"</{name}>") + len(name) + 3
        found.append(text[:end])
        text = text[end:]
    return found
