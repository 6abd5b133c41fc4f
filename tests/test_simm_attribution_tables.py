"""Contributions to SIMM as tables: they add up, have names, and hold what was chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from crif_case import crif_of
from polars.testing import assert_frame_equal
from simm_attribution_case import SINGLE, Row, attributed, random_rows, table_of, trades_of

from gpu_margin.models.simm import slopes_tables
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.models.simm.slopes_tables import BY_BUCKET, BY_FACTOR, BY_RISK_CLASS


def test_every_level_adds_up_to_the_one_above() -> None:
    rows = random_rows(12, portfolios=9)
    book = attributed(crif_of(rows))
    below = table_of(book, BY_FACTOR)
    for level in (BY_BUCKET, BY_RISK_CLASS):
        found = table_of(book, level)
        keys = found.columns[:-1]
        assert found.select(keys).is_unique().all()
        summed = below.group_by(keys, maintain_order=True).agg(pl.col("contribution").sum())
        assert_frame_equal(found, summed, rel_tol=1e-9, abs_tol=1e-3)
        below = found
    for table in (below, trades_of(book, rows)):
        summed = table.group_by("side", "calculation").agg(pl.col("contribution").sum())
        for side, calculation, amount in summed.iter_rows():
            total = book.total(SIDES.index(side))[calculation]
            assert amount == pytest.approx(total, rel=1e-9)


def test_vega_and_curvature_stand_apart() -> None:
    found = table_of(attributed(crif_of(SINGLE)), BY_RISK_CLASS)
    kinds = found.filter(pl.col("risk_class") == "CreditQualifying", pl.col("side") == "Call")
    assert kinds["margin_type"].to_list() == ["Delta", "Vega", "Curvature", "BaseCorr"]
    assert (kinds["contribution"] > 0.0).all()


def test_buckets_have_names() -> None:
    found = table_of(attributed(crif_of(SINGLE)), BY_FACTOR).filter(pl.col("side") == "Post")
    names = dict(found.select("risk_type", "bucket").iter_rows())
    expected = {row["RiskType"]: row.get("Bucket", "All") for row in SINGLE}
    rates = ("IRCurve", "Inflation", "XCcyBasis", "IRVol", "InflationVol")
    assert names == expected | {f"Risk_{kind}": "EUR" for kind in rates}
    curve = found.row(by_predicate=pl.col("risk_type") == "Risk_IRCurve", named=True)
    labels = [curve[name] for name in ("qualifier", "label1", "label2", "margin_type")]
    assert labels == ["EUR", "5y", "OIS", "Delta"]


def test_only_chosen_calculations_are_in_tables() -> None:
    rows = random_rows(13, portfolios=3)
    book = attributed(crif_of(rows))
    chosen = np.array([[True, False], [False, False], [False, True]])
    whole, some = table_of(book), table_of(book, chosen=chosen)
    trades = trades_of(book, rows), trades_of(book, rows, chosen)
    mine = ((pl.col("calculation") == 0) & (pl.col("side") == "Call")) | (
        (pl.col("calculation") == 2) & (pl.col("side") == "Post")
    )
    assert_frame_equal(some, whole.filter(mine), check_exact=True)
    assert_frame_equal(trades[1], trades[0].filter(mine), check_exact=True)


def test_trades_share_a_factor_by_their_amounts() -> None:
    rows = [_of_trade(row, name, share) for row in random_rows(14) for name, share in _SPLIT]
    book = attributed(crif_of(rows))
    found = trades_of(book, rows)
    assert found.columns == ["calculation", "side", "trade_id", "contribution"]
    for name, share in _SPLIT:
        own = found.filter(pl.col("trade_id") == name)
        expected = [
            share * book.total(SIDES.index(side))[calculation]
            for calculation, side in own.select("calculation", "side").iter_rows()
        ]
        np.testing.assert_allclose(own["contribution"], expected, rtol=1e-9)


_SPLIT = (("A", 0.25), ("B", 0.75))


def _of_trade(row: Row, name: str, share: float) -> Row:
    return row | {"TradeID": name, "Amount": row["Amount"] * share}


def test_no_rows_have_no_contributions() -> None:
    book = attributed(crif_of([]))
    assert book.slopes == []
    for level in slopes_tables.LEVELS:
        assert len(table_of(book, level)) == 0
    assert len(trades_of(book, [])) == 0
    empty = replace(crif_of(SINGLE[:1]), portfolios=pl.Series(["P", "Q"]))
    assert table_of(attributed(empty), BY_RISK_CLASS)["calculation"].to_list() == [0, 0]
