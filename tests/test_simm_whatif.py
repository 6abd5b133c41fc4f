"""SIMM of a book with other trades or under another version, held against doing it from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from simm_book_case import book

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import simm_batches, simm_whatif
from gpu_margin.crif_parts import joined, pieces
from gpu_margin.failures import ConfigError
from gpu_margin.io.crif import read_crif
from gpu_margin.simm_run import SimmRun, compare

BASE, MORE = book(12), book(5, seed=2, trades=3, first=9)
GONE = ["T3", "T7", "T-exotic", "T-schedule"]
# A trade id that several portfolios have.
SHARED = "T12"


def simm(source: pl.DataFrame, **options: Any) -> SimmRun:
    return gpu_margin.simm(source, backend="numpy", **options)


def same(one: pl.DataFrame | None, other: pl.DataFrame | None) -> None:
    """To the last bit."""
    assert one is not None and other is not None
    assert_frame_equal(one, other, check_exact=True)


def without(frame: pl.DataFrame, trades: list[str]) -> pl.DataFrame:
    return frame.filter(~pl.col("TradeID").is_in(trades).fill_null(False))


@pytest.fixture(scope="module")
def whole() -> SimmRun:
    return simm(BASE, add=MORE, remove=GONE, attribution=True)


def test_the_book_after_the_trades_is_that_from_scratch(whole: SimmRun) -> None:
    scratch = simm(pl.concat([MORE.reverse(), without(BASE, GONE)]), attribution=True)
    same(whole.levels, scratch.levels)
    same(whole.totals, scratch.totals)
    same(whole.contributions, scratch.contributions)
    same(whole.trade_contributions, scratch.trade_contributions)
    assert whole.failures.is_empty()


def test_the_book_before_the_trades_is_that_without_them(whole: SimmRun) -> None:
    changes = whole.changes
    assert changes is not None
    base = simm(BASE).totals
    before = changes.join(base, on=["portfolio_id", "side"], how="left", maintain_order="left")
    known = before.filter(pl.col("initial_margin").is_not_null())
    assert known["before"].equals(known["initial_margin"])
    new = before.filter(pl.col("initial_margin").is_null())
    assert set(new["portfolio_id"]) == {"P012", "P013"}
    assert (new["before"] == 0.0).all()
    same(
        changes.select("portfolio_id", "side", "after"),
        whole.totals.select("portfolio_id", "side", pl.col("initial_margin").alias("after")),
    )
    assert (changes["change"] == changes["after"] - changes["before"]).all()
    assert (changes["change"] != 0.0).any() and changes["complete"].all()


def trials() -> Iterator[tuple[str, str, str, pl.DataFrame]]:
    """Every trade by itself: portfolio, trade, what, and the portfolio's rows with or without."""
    for portfolio, trade in sorted(set(MORE.select("PortfolioID", "TradeID").iter_rows()), key=str):
        own = BASE.filter(pl.col("PortfolioID") == portfolio)
        alone = (pl.col("PortfolioID") == portfolio) & pl.col("TradeID").eq_missing(pl.lit(trade))
        yield portfolio, trade or "", "added", pl.concat([own, MORE.filter(alone)])
    for portfolio, trade in set(BASE.select("PortfolioID", "TradeID").iter_rows()):
        if trade in GONE:
            own = BASE.filter(pl.col("PortfolioID") == portfolio)
            yield portfolio, trade, "removed", without(own, [trade])


def test_each_trade_by_itself_is_that_from_scratch(whole: SimmRun) -> None:
    table = whole.trades
    assert table is not None
    assert table.select("portfolio_id", "trade_id", "what", "side").is_unique().all()
    before = {row[:2]: row[2] for row in simm(BASE).totals.drop("regulation").iter_rows()}
    found = {row[:4]: row[4:7] for row in table.iter_rows()}
    count = 0
    for portfolio, trade, what, rows in trials():
        for _, side, _, after, _ in simm(rows).totals.iter_rows():
            key = (portfolio, trade, what, side)
            now = before.get((portfolio, side), 0.0)
            assert found[key] == (now, after, after - now), key
            count += 1
    assert count == len(table)


def test_a_trade_removed_and_added_changes_nothing() -> None:
    trade = BASE.filter(pl.col("TradeID") == SHARED)
    assert trade["PortfolioID"].n_unique() > 1
    run = simm(BASE, add=trade, remove=SHARED)
    assert run.changes is not None
    assert (run.changes["change"] == 0.0).all()
    same(run.totals, simm(BASE).totals)
    # One by one they do change something.
    assert run.trades is not None
    assert set(run.trades["what"]) == {"added", "removed"}
    assert (run.trades["incremental_margin"] != 0.0).any()


def test_what_shares_a_batch_changes_no_bit(
    whole: SimmRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (simm_batches, simm_whatif):
        monkeypatch.setattr(module, "ROWS", 20)
    small = simm(BASE, add=MORE, remove=GONE, attribution=True)
    for name in ("levels", "totals", "contributions", "trade_contributions", "changes", "trades"):
        same(getattr(whole, name), getattr(small, name))


def test_a_trade_goes_from_every_portfolio_that_has_it() -> None:
    holders = set(BASE.filter(pl.col("TradeID") == SHARED)["PortfolioID"])
    assert len(holders) > 1
    run = simm(BASE, remove=[SHARED], side="post")
    assert run.trades is not None and run.changes is not None
    assert set(run.trades["portfolio_id"]) == holders
    assert set(run.trades["side"]) == set(run.changes["side"]) == {"Post"}
    moved = run.changes.filter(pl.col("change") != 0.0)
    assert set(moved["portfolio_id"]) <= holders
    same(
        moved.select("portfolio_id", "change"),
        run.trades.select("portfolio_id", pl.col("incremental_margin").alias("change")).filter(
            pl.col("change") != 0.0
        ),
    )


def test_a_portfolio_that_loses_all_its_rows_requires_nothing() -> None:
    frame = BASE.filter((pl.col("PortfolioID") == "P001") & (pl.col("TradeID") == SHARED))
    if frame.is_empty():
        frame = BASE.filter(pl.col("PortfolioID") == "P001").head(1)
    run = simm(frame, remove=frame["TradeID"].unique().to_list())
    assert run.totals["initial_margin"].to_list() == [0.0, 0.0]
    assert run.totals["complete"].all()


def test_an_unknown_trade_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'T-exotik', 'nope'; did you mean 'T-exotic'"):
        simm(BASE, remove=[SHARED, "T-exotik", "nope"])


def test_bad_rows_of_trades_make_what_they_touch_incomplete() -> None:
    bad = MORE.filter(pl.col("PortfolioID") == "P010").with_columns(RiskType=pl.lit("Risk_No"))
    run = simm(BASE, add=pl.concat([MORE.filter(pl.col("PortfolioID") == "P011"), bad]))
    assert run.changes is not None and run.trades is not None
    assert set(run.changes.filter(~pl.col("complete"))["portfolio_id"]) == {"P010"}
    assert set(run.totals.filter(~pl.col("complete"))["portfolio_id"]) == {"P010"}
    assert len(run.failures) == len(bad)
    assert run.manifest["counts"]["incomplete_portfolios"] == 1
    assert set(run.trades["portfolio_id"]) == {"P011"} and run.trades["complete"].all()


def test_a_portfolio_without_a_good_row_is_unknown() -> None:
    bad = BASE.filter(pl.col("PortfolioID") == "P002").with_columns(RiskType=pl.lit("Risk_No"))
    rest = BASE.filter(pl.col("PortfolioID") != "P002")
    run = simm(pl.concat([bad, rest]), against="2.5", attribution=True)
    unknown = run.totals.filter(pl.col("initial_margin").is_null())
    assert set(unknown["portfolio_id"]) == {"P002"} and not unknown["complete"].any()
    same(run.totals.filter(pl.col("portfolio_id") != "P002"), simm(rest).totals)
    assert run.comparison is not None
    last = run.comparison.totals.tail(2)
    assert set(last["portfolio_id"]) == {"P002"} and last["change"].is_null().all()
    assert "P002" not in set(run.comparison.levels["portfolio_id"])


def test_two_crifs_as_one_are_what_one_file_would_be() -> None:
    two = joined(read_crif(BASE, trades=True), read_crif(MORE, trades=True))
    one = read_crif(pl.concat([BASE, MORE]), trades=True)
    for name in ("portfolios", "trades", "factors", "regulations"):
        left, right = getattr(two, name), getattr(one, name)
        assert left.equals(right) if hasattr(left, "equals") else left == right, name
    for name in ("portfolio", "trade", "factor", "amount", "collect", "post", "end_date"):
        assert (getattr(two, name) == getattr(one, name)).all(), name


def test_pieces_have_every_portfolio_once() -> None:
    crif = read_crif(BASE.sample(fraction=1.0, shuffle=True, seed=5))
    for most in (1, 30, 10_000):
        parts = list(pieces(crif, most))
        assert pl.concat([part.portfolios for part in parts]).equals(crif.portfolios)
        assert sum(len(part) for part in parts) == len(crif)
    assert len(list(pieces(crif, 1))) == len(crif.portfolios)


def test_contributions_add_up_to_the_totals(whole: SimmRun) -> None:
    for table in (whole.contributions, whole.trade_contributions):
        assert table is not None
        sums = table.group_by("portfolio_id", "side").agg(pl.col("contribution").sum())
        both = whole.totals.join(sums, on=["portfolio_id", "side"], how="left")
        assert both["contribution"].to_list() == pytest.approx(
            both["initial_margin"].to_list(), rel=1e-9
        )
    assert whole.trade_contributions is not None
    assert set(whole.trade_contributions["part"]) >= {"SIMM", "AddOnFixedAmount"}


def test_the_result_currency_scales_and_needs_a_rate() -> None:
    fx = pl.DataFrame({"currency": ["EUR", "JPY"], "rate": [1.25, 0.0078125]})
    usd = simm(BASE, add=MORE, attribution=True, against="2.5")
    for currency, rate in (("EUR", 1.25), ("jpy", 0.0078125)):
        options = {"result_currency": currency, "fx": fx, "attribution": True, "against": "2.5"}
        run = simm(BASE, add=MORE, **options)
        assert run.currency == currency.upper() and run.manifest["usd_per_unit"] == rate
        for name, column in (
            ("levels", "initial_margin"),
            ("totals", "initial_margin"),
            ("changes", "after"),
            ("trades", "incremental_margin"),
            ("contributions", "contribution"),
        ):
            one, other = getattr(usd, name), getattr(run, name)
            assert (one[column] / rate).equals(other[column]), name
        assert usd.comparison is not None and run.comparison is not None
        left, right = usd.comparison.totals, run.comparison.totals
        assert (left["change"] / rate).equals(right["change"])
        assert left["change_percent"].equals(right["change_percent"])
    with pytest.raises(ConfigError, match=r"GBP: .* no good rate"):
        simm(BASE, result_currency="GBP", fx=fx)
    with pytest.raises(ConfigError, match="EUR: there is no rate"):
        simm(BASE, result_currency="EUR")
    with pytest.raises(ConfigError, match="three letters"):
        simm(BASE, result_currency="euro")


def test_a_comparison_is_two_runs_side_by_side() -> None:
    found = compare(BASE, "2.5", "latest", backend="numpy", horizon="1d")
    assert (found.before, found.after) == ("2.5", simm(BASE).version)
    keys = ["portfolio_id", "side", "product_class", "risk_class", "margin_type"]
    for version, column in (("2.5", "before"), ("latest", "after")):
        run = simm(BASE, version=version, horizon="1d")
        own = found.levels.select(*keys, column)
        both = own.join(run.levels, on=keys, how="full", coalesce=True).fill_null(0.0)
        assert both[column].equals(both["initial_margin"].alias(column))
        assert len(both) == len(own)
        totals = found.totals.sort("portfolio_id", "side")
        assert totals[column].equals(run.totals["initial_margin"].alias(column))
    sizes = found.totals["change"].abs()
    assert sizes.is_sorted(descending=True)
    some = found.levels.filter(pl.col("before") != 0.0)
    assert some["change_percent"].to_list() == pytest.approx(
        (100.0 * (some["after"] / some["before"] - 1.0)).to_list(), abs=1e-9
    )


def test_settings_that_make_no_sense_are_named() -> None:
    for options, said in (
        ({"version": "9.9"}, "unknown SIMM version '9.9'"),
        ({"against": "9.9"}, "unknown SIMM version '9.9'"),
        ({"horizon": "5d"}, "horizon: .*'5d'"),
        ({"side": "collect"}, "side: .*'collect'"),
        ({"calculation_currency": "dollar"}, "calculation currency: .*three letters"),
    ):
        with pytest.raises(ConfigError, match=said):
            simm(BASE, **options)


class _Failing:
    """NumPy's backend, whose sums fail after a while."""

    name, left = "failing", 40

    def __init__(self) -> None:
        self._real = backends.load("numpy")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def shards(self) -> list[Any]:
        return [self]

    def segment_sum(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the device is gone")
        return self._real.segment_sum(*arguments)


def test_a_device_that_fails_is_given_up_and_changes_no_bit() -> None:
    failing: Any = _Failing()
    run = gpu_margin.simm(BASE, backend=failing, add=MORE)
    (lost,) = run.manifest["lost_backends"]
    assert lost["name"] == "failing" and "the device is gone" in lost["error"]
    same(run.totals, simm(BASE, add=MORE).totals)
