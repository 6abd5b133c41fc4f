"""CRIF files and frames: spellings, formats, normal form, bad rows, streaming and order."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import simm_case
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_margin.crif import FACTOR_COLUMNS, MODELS, NO_DATE, PRODUCT_CLASSES, SCHEDULE_CLASSES, Crif
from gpu_margin.failures import ConfigError
from gpu_margin.io import crif_batches, crif_blocks, crif_codes
from gpu_margin.io.crif import read_crif

Row = dict[str, Any]
CAMEL = {
    "PortfolioID": "portfolio_id",
    "TradeID": "trade_id",
    "ProductClass": "product_class",
    "RiskType": "risk_type",
    "Qualifier": "qualifier",
    "Bucket": "bucket",
    "Label1": "label1",
    "Label2": "label2",
    "Amount": "amount",
    "AmountCurrency": "amount_currency",
    "AmountUSD": "amount_usd",
    "IMModel": "im_model",
    "CollectRegulations": "collect_regulations",
    "PostRegulations": "post_regulations",
    "EndDate": "end_date",
    "ValuationDate": "valuation_date",
}
CURVE: Row = {
    "PortfolioID": "P1",
    "TradeID": "T1",
    "ProductClass": "RatesFX",
    "RiskType": "Risk_IRCurve",
    "Qualifier": "EUR",
    "Bucket": "1",
    "Label1": "2w",
    "Label2": "OIS",
    "Amount": "100",
    "AmountCurrency": "USD",
    "AmountUSD": "100",
    "IMModel": "SIMM",
    "CollectRegulations": "",
    "PostRegulations": "",
    "EndDate": "",
    "ValuationDate": "",
}


def row(**changes: Any) -> Row:
    return CURVE | changes


def share(**changes: Any) -> Row:
    equity = {"ProductClass": "Equity", "RiskType": "Risk_Equity", "Qualifier": "ISIN:A"}
    return CURVE | equity | {"Bucket": "3", "Label1": "", "Label2": ""} | changes


def swap(**changes: Any) -> Row:
    """A row of Schedule."""
    terms = {"IMModel": "Schedule", "ProductClass": "Rates", "RiskType": "Notional"}
    blank = {"Qualifier": "", "Bucket": "", "Label1": "", "Label2": ""}
    return CURVE | terms | blank | {"EndDate": "2030-02-01"} | changes


def text(rows: Sequence[Row], separator: str = ",") -> str:
    stream = StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def written(
    folder: Path, rows: Sequence[Row], name: str = "book.csv", separator: str = ","
) -> Path:
    path = folder / name
    path.write_text(text(rows, separator), encoding="utf-8")
    return path


def contents(crif: Crif) -> list[tuple[Any, ...]]:
    """Every good row in words."""
    factors = crif.factors.rows()
    day = [None if value == NO_DATE else int(value) for value in crif.end_date]
    other = [None if value == NO_DATE else int(value) for value in crif.valuation_date]
    return [
        (
            crif.portfolios[int(crif.portfolio[at])],
            crif.trades[int(crif.trade[at])],
            PRODUCT_CLASSES[crif.product_class[at]] if crif.product_class[at] >= 0 else None,
            SCHEDULE_CLASSES[crif.schedule_class[at]] if crif.schedule_class[at] >= 0 else None,
            MODELS[crif.model[at]],
            factors[crif.factor[at]],
            float(crif.amount[at]),
            crif.regulations[crif.collect[at]],
            crif.regulations[crif.post[at]],
            day[at],
            other[at],
        )
        for at in range(len(crif))
    ]


def factors_of(crif: Crif) -> list[tuple[str, ...]]:
    return [crif.factors.row(int(code)) for code in crif.factor]


def incomplete(crif: Crif) -> list[str]:
    return crif.portfolios.filter(pl.Series(crif.incomplete)).to_list()


def found(crif: Crif) -> list[tuple[Any, ...]]:
    """Failures without reason."""
    return crif.failures.select("source", "row", "field", "value").rows()


def same(one: Crif, other: Crif) -> None:
    """Everything is equal, tables and types included."""
    assert one.regulations == other.regulations
    for name in ("portfolios", "trades", "factors", "failures"):
        assert getattr(one, name).equals(getattr(other, name)), name
    for name, array in vars(one).items():
        if isinstance(array, np.ndarray):
            assert array.dtype == getattr(other, name).dtype, name
            assert np.array_equal(array, getattr(other, name)), name


BOOK = [
    row(PortfolioID="P2", Amount="7", AmountUSD="-1.5"),
    row(Label1="10Y", Label2="libor3m", Qualifier="usd"),
    share(Bucket="007"),
    share(Bucket="residual", PortfolioID="Q", CollectRegulations="SEC,CFTC"),
    row(RiskType="Risk_FXVol", Qualifier="USDEUR", Label1="1y", PostRegulations="[sec; esa]"),
    swap(TradeID="S2"),
    swap(RiskType="PV", ProductClass="Other", ValuationDate="2029-01-01", EndDate=""),
    row(
        RiskType="Param_ProductClassMultiplier", ProductClass="", Qualifier="Rates", AmountUSD="1.5"
    ),
]


# ---------------------------------------------------------------- what a row means


def test_rows_keep_their_order_and_tables_are_sorted(tmp_path: Path) -> None:
    crif = read_crif(written(tmp_path, BOOK))
    assert crif.portfolios.to_list() == ["P1", "P2", "Q"]
    assert crif.trades.to_list() == ["", "S2", "T1"]
    assert crif.factors.columns == list(FACTOR_COLUMNS)
    assert crif.factors.rows() == sorted(crif.factors.rows())
    assert crif.regulations == ((), ("CFTC", "SEC"), ("ESA", "SEC"))
    assert not crif.incomplete.any() and crif.failures.is_empty()
    rates, equity = ("RatesFX", None, "SIMM"), ("Equity", None, "SIMM")
    curve = ("Risk_IRCurve", "EUR", "", "2w", "OIS")
    assert contents(crif) == [
        ("P2", "", *rates, curve, -1.5, (), (), None, None),
        (
            "P1",
            "",
            *rates,
            ("Risk_IRCurve", "USD", "", "10y", "Libor3m"),
            100.0,
            (),
            (),
            None,
            None,
        ),
        ("P1", "", *equity, ("Risk_Equity", "ISIN:A", "7", "", ""), 100.0, (), (), None, None),
        (
            *("Q", "", *equity, ("Risk_Equity", "ISIN:A", "Residual", "", ""), 100.0),
            *(("CFTC", "SEC"), (), None, None),
        ),
        (
            *("P1", "", *rates, ("Risk_FXVol", "EURUSD", "", "1y", ""), 100.0),
            *((), ("ESA", "SEC"), None, None),
        ),
        (
            *("P1", "S2", None, "Rates", "Schedule", ("Notional", "", "", "", ""), 100.0),
            *((), (), 21946, None),
        ),
        (
            *("P1", "T1", None, "Other", "Schedule", ("PV", "", "", "", ""), 100.0),
            *((), (), None, 21550),
        ),
        (
            *("P1", "", None, None, "SIMM"),
            *(("Param_ProductClassMultiplier", "RatesFX", "", "", ""), 1.5),
            *((), (), None, None),
        ),
    ]


def test_trades_of_all_rows_are_read_when_asked_for(tmp_path: Path) -> None:
    rows = [row(TradeID=name) for name in ("T2", "", "T10")] + [swap(), row(RiskType="x")]
    crif = read_crif(written(tmp_path, rows), trades=True)
    assert crif.trades.to_list() == ["", "T1", "T10", "T2"] and crif.trade.tolist() == [3, 0, 2, 1]
    plain = read_crif(written(tmp_path, rows))
    assert plain.trades.to_list() == ["", "T1"] and plain.trade.tolist() == [0, 0, 0, 1]
    nowhere = [{k: v for k, v in line.items() if k != "TradeID"} for line in rows[:3]]
    assert read_crif(written(tmp_path, nowhere), trades=True).trades.to_list() == [""]


def test_the_arrays_have_the_types_of_the_noun(tmp_path: Path) -> None:
    crif = read_crif(written(tmp_path, BOOK))
    codes = ("portfolio", "trade", "factor", "collect", "post", "end_date", "valuation_date")
    assert {getattr(crif, name).dtype for name in codes} == {np.dtype(np.int32)}
    small = ("product_class", "schedule_class", "model")
    assert {getattr(crif, name).dtype for name in small} == {np.dtype(np.int8)}
    assert crif.amount.dtype == np.float64 and crif.incomplete.dtype == np.bool_
    assert len(crif) == len(BOOK)


IGNORED = {"Bucket": "9", "Label1": "junk", "Label2": "junk"}
NORMAL = [
    (row(RiskType="risk_IRCURVE", Qualifier=" eur ", Bucket="2"), "EUR", "", "2w", "OIS"),
    (row(RiskType="Risk_IRCurve", Label2=""), "EUR", "", "2w", ""),
    (row(RiskType="Risk_Inflation", **IGNORED), "EUR", "", "", ""),
    (row(RiskType="Risk_XCcyBasis", **IGNORED), "EUR", "", "", ""),
    (row(RiskType="Risk_FX", **IGNORED), "EUR", "", "", ""),
    (row(RiskType="Risk_IRVol", Label1="30Y"), "EUR", "", "30y", ""),
    (row(RiskType="Risk_InflationVol"), "EUR", "", "2w", ""),
    (row(RiskType="Risk_FXVol", Qualifier="gbpEUR"), "EURGBP", "", "2w", ""),
    (share(Label1="1y", Label2="x"), "ISIN:A", "3", "", ""),
    (share(RiskType="Risk_EquityVol", Label1="1Y"), "ISIN:A", "3", "1y", ""),
    (
        share(RiskType="Risk_Commodity", Qualifier=" Coal Europe", Label1="x"),
        "Coal Europe",
        "3",
        "",
        "",
    ),
    (share(RiskType="Risk_CommodityVol", Label1="1m"), "ISIN:A", "3", "1m", ""),
    (share(RiskType="Risk_CreditQ", Label1="5y", Label2=" USD"), "ISIN:A", "3", "5y", "USD"),
    (share(RiskType="Risk_CreditVol", Label1="5y", Label2="USD"), "ISIN:A", "3", "5y", "USD"),
    (share(RiskType="Risk_CreditNonQ", Label1="5y", Label2=" CMBX"), "ISIN:A", "3", "5y", "CMBX"),
    (share(RiskType="Risk_CreditVolNonQ", Label1="5y", Label2="CMBX"), "ISIN:A", "3", "5y", "CMBX"),
    (share(RiskType="Risk_BaseCorr", Qualifier="CDX IG", **IGNORED), "CDX IG", "", "", ""),
    (row(RiskType="Param_AddOnFixedAmount", Qualifier=""), "", "", "", ""),
    (row(RiskType="Param_AddOnNotionalFactor", Qualifier="Alpha"), "Alpha", "", "", ""),
    (row(RiskType="Notional", Qualifier="Alpha", ProductClass=""), "Alpha", "", "", ""),
    (row(RiskType="Param_ProductClassMultiplier", Qualifier="equity"), "Equity", "", "", ""),
]


@pytest.mark.parametrize(("line", "qualifier", "bucket", "label1", "label2"), NORMAL)
def test_normal_form(
    line: Row, qualifier: str, bucket: str, label1: str, label2: str, tmp_path: Path
) -> None:
    crif = read_crif(written(tmp_path, [line]))
    assert found(crif) == []
    assert factors_of(crif)[0][1:] == (qualifier, bucket, label1, label2)


@pytest.mark.parametrize("name", ["Rates", "FX", "ratesfx", " RatesFX "])
def test_rates_and_fx_are_one_product_class_of_simm(name: str, tmp_path: Path) -> None:
    crif = read_crif(written(tmp_path, [row(ProductClass=name)]))
    assert crif.product_class.tolist() == [0]


@pytest.mark.parametrize("name", SCHEDULE_CLASSES)
def test_product_classes_of_schedule(name: str, tmp_path: Path) -> None:
    lines = [swap(ProductClass=name), swap(ProductClass=name.upper(), IMModel="SCHEDULE")]
    crif = read_crif(written(tmp_path, lines))
    assert crif.schedule_class.tolist() == [SCHEDULE_CLASSES.index(name)] * 2
    assert crif.product_class.tolist() == [-1, -1]


def test_no_model_is_simm(tmp_path: Path) -> None:
    crif = read_crif(written(tmp_path, [row(IMModel=""), row(IMModel="simm")]))
    assert crif.model.tolist() == [0, 0]


# ---------------------------------------------------------------- files and frames


def renamed(rows: Sequence[Row], rename: Callable[[str], str]) -> list[Row]:
    return [{rename(name): value for name, value in line.items()} for line in rows]


@pytest.mark.parametrize(
    "rename",
    [
        CAMEL.__getitem__,
        str.upper,
        str.lower,
        lambda name: f" {CAMEL[name].upper()} ",
        lambda name: f"#{name}",
    ],
)
def test_spellings_of_columns(rename: Callable[[str], str], tmp_path: Path) -> None:
    plain = read_crif(written(tmp_path, BOOK))
    same(read_crif(written(tmp_path, renamed(BOOK, rename))), plain)


@pytest.mark.parametrize("separator", ["\t", ";", ","])
@pytest.mark.parametrize("name", ["book.csv", "book.tsv", "book.txt", "book"])
def test_the_separator_is_that_of_the_header(name: str, separator: str, tmp_path: Path) -> None:
    plain = read_crif(written(tmp_path, BOOK))
    same(read_crif(written(tmp_path, BOOK, name, separator)), plain)


@pytest.mark.parametrize("extra", ["Comment", "", "Valuation"])
def test_unknown_columns_and_their_contents_are_ignored(extra: str, tmp_path: Path) -> None:
    rows = [{extra: "a,b", **line, f"{extra}2": "1e999"} for line in BOOK]
    plain = read_crif(written(tmp_path, BOOK))
    same(read_crif(written(tmp_path, rows)), plain)


def test_bom_line_ends_quotes_and_blank_lines(tmp_path: Path) -> None:
    plain = read_crif(written(tmp_path, BOOK))
    lines = text(BOOK).splitlines()
    quoted = "\n".join(",".join(f'"{field}"' for field in row) for row in csv.reader(lines))
    for content in (
        b"\xef\xbb\xbf" + text(BOOK).encode(),
        text(BOOK).replace("\n", "\r\n").encode(),
        ("\n\n" + "\n\n\n".join(lines) + "\n\n\n").encode(),
        quoted.encode(),
        text(BOOK).rstrip("\n").encode(),
    ):
        path = tmp_path / "book.csv"
        path.write_bytes(content)
        same(read_crif(path), plain)


def frame_of(rows: Sequence[Row]) -> pl.DataFrame:
    """Typed as a person would: numbers, dates, nulls."""
    frame = pl.DataFrame(rows).with_columns(
        pl.when(pl.all() == "").then(None).otherwise(pl.all()).name.keep()
    )
    return frame.with_columns(
        pl.col("Amount", "AmountUSD").cast(pl.Float64),
        pl.col("EndDate", "ValuationDate").str.to_date(),
        pl.col("ProductClass").cast(pl.Categorical),
    )


def test_parquet_and_frames_are_as_csv(tmp_path: Path) -> None:
    plain = read_crif(written(tmp_path, BOOK))
    frame = frame_of(BOOK)
    frame.write_parquet(tmp_path / "book.parquet")
    same(read_crif(tmp_path / "book.parquet"), plain)
    frame.write_parquet(tmp_path / "texts.pq")
    same(read_crif(str(tmp_path / "texts.pq")), plain)
    arrow: Any = frame.with_columns(pl.col("ProductClass").cast(pl.String)).to_arrow()
    for source in (frame, frame.lazy(), arrow, frame.to_pandas(), pd.DataFrame(BOOK)):
        same(read_crif(source), plain)


def test_buckets_and_ids_may_be_numbers() -> None:
    rows = [share(PortfolioID=7, Bucket=3), share(PortfolioID=8, Bucket=4)]
    crif = read_crif(pl.DataFrame(rows))
    assert crif.portfolios.to_list() == ["7", "8"]
    assert factors_of(crif) == [("Risk_Equity", "ISIN:A", bucket, "", "") for bucket in "34"]
    floats = read_crif(pd.DataFrame([*rows, row(PortfolioID=7, Bucket=None)]))
    assert [factor[2] for factor in factors_of(floats)] == ["3", "4", ""]
    odd = read_crif(pl.DataFrame([share(Bucket=1.5), share(Bucket=2.0)]))
    assert found(odd) == [("crif", 1, "bucket", "1.5")]


def test_regulations_may_be_lists() -> None:
    frame = pl.DataFrame([row(), row()]).with_columns(
        pl.Series("CollectRegulations", [["sec", "CFTC"], []])
    )
    crif = read_crif(frame)
    assert [crif.regulations[code] for code in crif.collect] == [("CFTC", "SEC"), ()]


def test_many_files(tmp_path: Path) -> None:
    parts = [written(tmp_path, BOOK[at : at + 3], f"{at}.csv") for at in range(0, len(BOOK), 3)]
    same(read_crif(parts), read_crif(written(tmp_path, BOOK)))
    mixed = [str(parts[0]), frame_of(BOOK[3:6]), parts[2]]
    same(read_crif(mixed), read_crif(parts))
    bad = written(tmp_path, [row(RiskType="x"), row()], "bad.csv")
    assert read_crif([parts[2], bad]).source_rows == (2, 2)


def test_no_column_of_portfolios_is_one_portfolio(tmp_path: Path) -> None:
    rows = [
        {k: v for k, v in line.items() if k not in ("PortfolioID", "TradeID")} for line in BOOK[:3]
    ]
    crif = read_crif(written(tmp_path, [*rows, rows[0] | {"RiskType": "x"}]))
    assert crif.portfolios.to_list() == [""] and incomplete(crif) == [""]
    assert crif.trades.to_list() == [""] and len(crif) == 3


def test_few_columns_do(tmp_path: Path) -> None:
    line = {"ProductClass": "RatesFX", "RiskType": "Risk_FX", "Qualifier": "EUR", "AmountUSD": "5"}
    assert contents(read_crif(written(tmp_path, [line]))) == [
        ("", "", "RatesFX", None, "SIMM", ("Risk_FX", "EUR", "", "", ""), 5.0, (), (), None, None)
    ]


@pytest.mark.parametrize("name", ["none.csv", "none.parquet"])
def test_a_missing_file_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_crif(tmp_path / name)


@pytest.mark.parametrize("sources", [[], 7, [7]])
def test_what_is_no_source_is_an_error(sources: Any) -> None:
    with pytest.raises(ConfigError, match="crif"):
        read_crif(sources)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file: no header"),
        (b"\n \n", "empty file: no header"),
        (b"\xef\xbb\xbf", "empty file: no header"),
        (b"ProductClass,RiskType,AmountUSD", "empty file: no data rows"),
        (b"ProductClass,RiskType,AmountUSD\n\n,,\n", "empty file: no data rows"),
    ],
)
def test_empty_files_fail_and_others_go_on(content: bytes, reason: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_bytes(content)
    crif = read_crif([empty, written(tmp_path, BOOK)])
    assert crif.failures.rows() == [(reason, "empty.csv", None, None, None)]
    assert len(crif) == len(BOOK)
    alone = read_crif(empty)
    assert len(alone) == 0 and alone.portfolios.to_list() == [] and alone.regulations == ((),)


def test_empty_frames_fail(tmp_path: Path) -> None:
    empty = pl.DataFrame(BOOK).clear()
    empty.write_parquet(tmp_path / "empty.parquet")
    for source in (
        empty,
        empty.lazy(),
        empty.to_arrow(),
        empty.to_pandas(),
        tmp_path / "empty.parquet",
    ):
        assert read_crif(source).failures["reason"].to_list() == ["empty file: no data rows"]


@pytest.mark.parametrize("column", ["ProductClass", "RiskType"])
def test_missing_columns_fail(column: str, tmp_path: Path) -> None:
    rows = [{k: v for k, v in line.items() if k != column} for line in BOOK]
    path = written(tmp_path, rows)
    pl.DataFrame(rows).write_parquet(tmp_path / "book.parquet")
    for source in (path, pl.DataFrame(rows), pd.DataFrame(rows), tmp_path / "book.parquet"):
        crif = read_crif(source)
        (failure,) = crif.failures.rows(named=True)
        assert failure["field"] == CAMEL[column] and failure["row"] is None
        assert failure["reason"].startswith("missing column") and len(crif) == 0


def test_some_amount_must_be_there(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row().items() if k not in ("Amount", "AmountUSD")}]
    (failure,) = read_crif(written(tmp_path, rows)).failures.rows(named=True)
    assert failure["field"] == "amount_usd" and failure["reason"].startswith("missing column")


def test_a_column_twice_fails(tmp_path: Path) -> None:
    path = written(tmp_path, [row() | {"risk_type": "Risk_FX"}])
    (failure,) = read_crif(path).failures.rows(named=True)
    assert failure["field"] == "risk_type" and failure["reason"].startswith("column twice")


def test_files_that_cannot_be_read_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"no parquet")
    for path in (bad, tmp_path):
        (failure,) = read_crif(path).failures.rows(named=True)
        assert failure["reason"].startswith("unreadable file") and failure["source"] == path.name
    (tmp_path / "old.csv").write_bytes(text(BOOK).replace("\n", "\r").encode())
    assert read_crif(tmp_path / "old.csv").failures.height == 1


# ---------------------------------------------------------------- bad rows

BAD: list[tuple[Row, str, str | None, str]] = [
    (row(PortfolioID=""), "portfolio_id", None, "missing portfolio_id"),
    (row(IMModel="SIMM-P"), "im_model", "SIMM-P", "unknown model"),
    (row(IMModel="Schedule-2"), "im_model", "Schedule-2", "unknown model"),
    (row(RiskType=""), "risk_type", None, "missing risk_type"),
    (row(RiskType="Risk_Weather"), "risk_type", "Risk_Weather", "unknown risk type"),
    (row(RiskType="PV"), "risk_type", "PV", "counts in Schedule only"),
    (row(ProductClass=""), "product_class", None, "missing product_class"),
    (row(ProductClass="Other"), "product_class", "Other", "unknown product class"),
    (row(Qualifier=""), "qualifier", None, "missing qualifier"),
    (row(Qualifier="EURO"), "qualifier", "EURO", "not a currency"),
    (row(Qualifier="E1R"), "qualifier", "E1R", "not a currency"),
    (row(RiskType="Risk_FX", Qualifier="€UR"), "qualifier", "€UR", "not a currency"),
    (row(RiskType="Risk_FXVol", Qualifier="EUR/USD"), "qualifier", "EUR/USD", "not a pair"),
    (row(RiskType="Risk_FXVol", Qualifier="EUR"), "qualifier", "EUR", "not a pair"),
    (row(RiskType="Risk_FXVol", Qualifier="EUReur"), "qualifier", "EUReur", "equal currencies"),
    (row(RiskType="Risk_FXVol", Qualifier=""), "qualifier", None, "missing qualifier"),
    (row(Label1="4w"), "label1", "4w", "unknown tenor"),
    (row(Label1=""), "label1", None, "missing label1"),
    (share(RiskType="Risk_EquityVol", Label1="2"), "label1", "2", "unknown tenor"),
    (share(Qualifier=" "), "qualifier", " ", "missing qualifier"),
    (share(Bucket=""), "bucket", None, "missing bucket"),
    (share(Bucket="0"), "bucket", "0", "unknown bucket"),
    (share(Bucket="-1"), "bucket", "-1", "unknown bucket"),
    (share(Bucket="1.0"), "bucket", "1.0", "unknown bucket"),
    (share(Bucket="Resid"), "bucket", "Resid", "unknown bucket"),
    (row(AmountUSD="12x"), "amount_usd", "12x", "not a number"),
    (row(AmountUSD="1,5"), "amount_usd", "1,5", "not a number"),
    (row(AmountUSD="NaN"), "amount_usd", "NaN", "not finite"),
    (row(AmountUSD="inf"), "amount_usd", "inf", "not finite"),
    (row(AmountUSD="-Infinity"), "amount_usd", "-Infinity", "not finite"),
    (row(AmountUSD="1e999"), "amount_usd", "1e999", "not finite"),
    (row(AmountUSD="-1.01e30"), "amount_usd", "-1.01e30", "out of range"),
    (row(AmountUSD="", Amount=""), "amount_usd", None, "missing amount_usd"),
    (row(AmountUSD="", Amount="1e31"), "amount", "1e31", "out of range"),
    (row(AmountUSD="", Amount="nan"), "amount", "nan", "not finite"),
    (row(AmountUSD="", Amount="ten"), "amount", "ten", "not a number"),
    (row(AmountUSD="", AmountCurrency=""), "amount_currency", None, "missing amount_currency"),
    (row(AmountUSD="", AmountCurrency="EUR"), "amount_currency", "EUR", "without a rate"),
    (
        row(RiskType="Param_ProductClassMultiplier", Qualifier="Equity", AmountUSD="-1"),
        *("amount_usd", "-1", "negative multiplier"),
    ),
    (
        row(RiskType="Param_ProductClassMultiplier", Qualifier="Equity", AmountUSD="", Amount="-2"),
        *("amount", "-2", "negative multiplier"),
    ),
    (row(RiskType="Param_ProductClassMultiplier"), "qualifier", "EUR", "not a product class"),
    (
        row(RiskType="Param_AddOnNotionalFactor", Qualifier=""),
        "qualifier",
        None,
        "missing qualifier",
    ),
    (row(RiskType="Notional", Qualifier=""), "qualifier", None, "missing qualifier"),
    (row(IMModel="Schedule"), "risk_type", "Risk_IRCurve", "only Notional and PV"),
    (swap(RiskType=""), "risk_type", None, "missing risk_type"),
    (swap(ProductClass="RatesFX"), "product_class", "RatesFX", "unknown product class"),
    (swap(ProductClass=""), "product_class", None, "missing product_class"),
    (swap(TradeID=""), "trade_id", None, "missing trade_id"),
    (swap(EndDate="2030-02-30"), "end_date", "2030-02-30", "not a date"),
    (swap(EndDate="01/02/2030"), "end_date", "01/02/2030", "not a date"),
    (swap(EndDate=""), "end_date", None, "missing end_date"),
    (swap(ProductClass="Credit", EndDate=""), "end_date", None, "missing end_date"),
    (swap(ValuationDate="today"), "valuation_date", "today", "not a date"),
    (swap(AmountUSD="x"), "amount_usd", "x", "not a number"),
]


@pytest.mark.parametrize(("bad", "field", "value", "reason"), BAD)
def test_a_bad_row_fails_alone(
    bad: Row, field: str, value: str | None, reason: str, tmp_path: Path
) -> None:
    good = row(PortfolioID="good")
    crif = read_crif(written(tmp_path, [row(), good, bad, row()]))
    (failure,) = crif.failures.rows(named=True)
    assert reason in failure["reason"]
    assert (failure["source"], failure["row"]) == ("book.csv", 3)
    assert (failure["field"], failure["value"]) == (field, value)
    assert len(crif) == 3 and np.isfinite(crif.amount).all()
    assert incomplete(crif) == ([] if field == "portfolio_id" else ["P1"])
    same_in_parquet = tmp_path / "book.csv.parquet"
    pl.DataFrame([row(), good, bad, row()]).write_parquet(same_in_parquet)
    other = read_crif(same_in_parquet)
    assert other.failures.drop("source").equals(crif.failures.drop("source"))
    assert contents(other) == contents(crif)


def test_all_bad_rows_at_once(tmp_path: Path) -> None:
    crif = read_crif(written(tmp_path, [bad for bad, *_ in BAD]))
    assert found(crif) == [
        ("book.csv", at, field, value) for at, (_, field, value, _) in enumerate(BAD, start=1)
    ]
    assert len(crif) == 0 and crif.portfolios.to_list() == ["P1"] and crif.incomplete.all()
    assert crif.factors.height == 0 and crif.trades.to_list() == []


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_malformed_records_fail_alone(separator: str, tmp_path: Path) -> None:
    lines = text([row(PortfolioID=name) for name in "ABCDEF"], separator).splitlines()
    lines[2] += f"{separator}x{separator}"
    lines[4] = lines[4].replace("OIS", '"OIS')
    path = tmp_path / "book.csv"
    path.write_bytes("\n".join(lines).encode() + b"\n" + lines[6].encode().replace(b"OIS", b"\xff"))
    crif = read_crif(path)
    assert crif.failures["row"].to_list() == [2, 4, 7]
    assert [reason[:10] for reason in crif.failures["reason"]] == [
        "18 fields ",
        "a quote is",
        "text is no",
    ]
    assert incomplete(crif) == ["B", "D", "F"] and len(crif) == 4


def test_short_records_have_nothing_in_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "book.csv"
    path.write_text("RiskType,ProductClass,Qualifier,AmountUSD\nRisk_FX,FX,EUR,5\nRisk_FX,FX,EUR\n")
    assert found(read_crif(path)) == [("book.csv", 2, "amount_usd", None)]


def test_bytes_that_are_no_text_fail() -> None:
    frame = pl.DataFrame([row(), row(PortfolioID="Q"), swap()]).with_columns(
        pl.Series("Qualifier", [b"\xff\xfe\xfd", b"EUR", b""]),
        pl.Series("TradeID", [b"", b"", b"\xff"]),
    )
    crif = read_crif(frame)
    assert [(failure[1], failure[2]) for failure in found(crif)] == [
        (1, "qualifier"),
        (3, "trade_id"),
    ]


def test_other_columns_of_simm_are_not_looked_at(tmp_path: Path) -> None:
    crif = read_crif(written(tmp_path, [row(EndDate="soon", ValuationDate="x", TradeID="")]))
    assert found(crif) == [] and crif.end_date.tolist() == [NO_DATE]


@given(
    st.lists(st.sampled_from([row(), share(), swap(), *(bad for bad, *_ in BAD)]), min_size=1),
    st.integers(1, 2000),
)
@settings(max_examples=60, deadline=None)
def test_every_row_is_good_or_a_failure(rows: list[Row], block: int) -> None:
    frame = pl.DataFrame(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crif_batches, "_ROWS", 1 + block // 100)
        crif = read_crif(frame)
    assert len(crif) + crif.failures.height == len(rows)
    assert crif.failures["row"].is_unique().all() and crif.failures["row"].is_sorted()


# ---------------------------------------------------------------- amounts

FX = pl.DataFrame({"currency": ["EUR", "GBP"], "rate": [1.1, 1.25]})


def test_amount_usd_wins(tmp_path: Path) -> None:
    rows = [
        row(AmountUSD="5", Amount="9", AmountCurrency="EUR"),
        row(AmountUSD="", Amount="10", AmountCurrency=" eur "),
        row(AmountUSD="", Amount="-10", AmountCurrency="GBP"),
        row(AmountUSD="", Amount="7", AmountCurrency="USD"),
        row(AmountUSD=" 0 ", Amount="7"),
        row(AmountUSD="1e-300", Amount="nonsense", AmountCurrency="?"),
    ]
    crif = read_crif(written(tmp_path, rows), fx=FX)
    assert crif.amount.tolist() == [5.0, 10 * 1.1, -12.5, 7.0, 0.0, 1e-300]
    without = [{k: v for k, v in line.items() if k != "AmountUSD"} for line in rows[1:4]]
    assert read_crif(written(tmp_path, without), fx=FX).amount.tolist() == [11.0, -12.5, 7.0]


def test_figures_need_no_currency(tmp_path: Path) -> None:
    figure = {"AmountUSD": "", "Amount": "1.25", "AmountCurrency": ""}
    rows = [
        row(RiskType="Param_ProductClassMultiplier", Qualifier="Credit", **figure),
        row(RiskType="Param_AddOnNotionalFactor", Qualifier="Alpha", **figure),
        row(RiskType="Param_AddOnFixedAmount", Qualifier="Alpha", **figure),
    ]
    rows[1]["AmountCurrency"] = "XXX"
    crif = read_crif(written(tmp_path, rows))
    assert crif.amount.tolist() == [1.25, 1.25]
    assert found(crif) == [("book.csv", 3, "amount_currency", None)]


def test_rates_that_fail_are_failures(tmp_path: Path) -> None:
    fx = pl.DataFrame({"currency": ["EUR", "GBP", "JPY"], "rate": [-1.0, math.inf, 1e30]})
    rows = [row(AmountUSD="", Amount="2", AmountCurrency=name) for name in ("EUR", "GBP", "JPY")]
    crif = read_crif(written(tmp_path, rows), fx=fx)
    assert found(crif)[:3] == [
        ("book.csv", 1, "amount_currency", "EUR"),
        ("book.csv", 2, "amount_currency", "GBP"),
        ("book.csv", 3, "amount", "2"),
    ]
    assert sorted(found(crif)[3:]) == [("fx", 1, "rate", "-1.0"), ("fx", 2, "rate", "inf")]


def test_rates_from_a_file(tmp_path: Path) -> None:
    FX.write_csv(tmp_path / "fx.csv")
    path = written(tmp_path, [row(AmountUSD="", Amount="8", AmountCurrency="GBP")])
    assert read_crif(path, fx=tmp_path / "fx.csv").amount.tolist() == [10.0]
    with pytest.raises(ConfigError, match="no such file"):
        read_crif(path, fx=tmp_path / "none.csv")


# ---------------------------------------------------------------- streaming and order


def book(size: int, seed: int = 0) -> list[Row]:
    """Rows of many kinds, some of them bad, a few blank."""
    pick = np.random.default_rng(seed)
    kinds = [*BOOK, *(bad for bad, *_ in BAD[:30:3]), dict.fromkeys(CURVE, "")]
    weights = np.array([8.0] * len(BOOK) + [1.0] * (len(kinds) - len(BOOK)))
    rows = []
    for place in pick.choice(len(kinds), size, p=weights / weights.sum()):
        amount = {"AmountUSD": f"{pick.normal():.3f}00"} if place < len(BOOK) else {}
        name = {"PortfolioID": f"P{pick.integers(20)}"} if kinds[place]["PortfolioID"] else {}
        rows.append(kinds[place] | amount | name)
    return rows


@pytest.mark.parametrize("table", [8, 1 << 21])
@pytest.mark.parametrize("size", [1, 97, 1000, 5000])
def test_batches_change_nothing(
    size: int, table: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = book(60 if size == 1 else 300)
    path = written(tmp_path, rows)
    frame = pl.DataFrame(rows)
    frame.write_parquet(tmp_path / "book.parquet", row_group_size=40)
    whole, others = read_crif(path), read_crif(frame)
    monkeypatch.setattr(crif_blocks, "_BLOCK", size)
    monkeypatch.setattr(crif_batches, "_ROWS", 1 + size // 50)
    monkeypatch.setattr(crif_codes, "_TABLE", table)
    same(read_crif(path), whole)
    same(read_crif(frame), others)
    assert contents(others) == contents(whole)
    parquet = read_crif(tmp_path / "book.parquet")
    assert contents(parquet) == contents(whole)
    assert parquet.failures.drop("source").equals(whole.failures.drop("source"))


@pytest.mark.parametrize("size", [1, 50, 333, 1 << 20])
def test_line_breaks_in_quotes_across_blocks(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [line | {"Comment": "two\nlines, or\n\nmore"} for line in book(40)]
    monkeypatch.setattr(crif_blocks, "_BLOCK", size)
    crif = read_crif(written(tmp_path, rows))
    monkeypatch.undo()
    same(crif, read_crif(written(tmp_path, book(40))))


def test_a_quote_left_open_costs_its_record_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = text([row(PortfolioID=f"P{at:03}") for at in range(200)]).splitlines(keepends=True)
    lines[50] = lines[50].replace("OIS", '"OIS')
    path = tmp_path / "book.csv"
    path.write_text("".join(lines))
    monkeypatch.setattr(crif_blocks, "_BLOCK", 2000)
    monkeypatch.setattr(crif_blocks, "_LONGEST", 500)
    crif = read_crif(path)
    assert crif.failures["row"].to_list() == [50] and len(crif) == 199
    assert incomplete(crif) == ["P049"]


def test_the_order_of_rows_and_files_changes_no_table(tmp_path: Path) -> None:
    rows = [line for line in book(200) if line["PortfolioID"]]
    plain = read_crif(written(tmp_path, rows))
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = [rows[at] for at in order]
    halves = [written(tmp_path, shuffled[:90], "a.csv"), written(tmp_path, shuffled[90:], "b.csv")]
    other = read_crif(halves)
    for name in ("portfolios", "trades", "factors"):
        assert getattr(other, name).equals(getattr(plain, name))
    assert other.regulations == plain.regulations
    assert np.array_equal(other.incomplete, plain.incomplete)
    bad = set(plain.failures["row"])
    place = {
        at: number for number, at in enumerate(at for at in range(len(rows)) if at + 1 not in bad)
    }
    kept = [place[at] for at in order if at in place]
    for name, array in vars(plain).items():
        if isinstance(array, np.ndarray) and name != "incomplete":
            assert np.array_equal(getattr(other, name), array[kept]), name


def test_progress_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crif_blocks, "_BLOCK", 100)
    path = written(tmp_path, BOOK)
    said: list[tuple[str, int, int]] = []
    read_crif([path, frame_of(BOOK)], progress=lambda *what: said.append(what))
    size = path.stat().st_size
    files = [what for what in said if what[0] == "read book.csv"]
    assert len(files) > 1 and files[-1] == ("read book.csv", size, size)
    assert said[-1] == ("read crif", len(BOOK), len(BOOK))


# ---------------------------------------------------------------- regulations


@given(
    st.lists(st.sampled_from(["SEC", "cftc", " Esa", "SEC-unseg", "uspr "]), max_size=5),
    st.sampled_from([",", ";", ", ", " ;; "]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_regulations_are_sets(names: list[str], separator: str, brackets: bool) -> None:
    joined = separator.join(names)
    line = row(CollectRegulations=f"[{joined}]" if brackets else joined)
    crif = read_crif(pl.DataFrame([line, row()]))
    expected = tuple(sorted({name.strip().upper() for name in names}))
    assert crif.regulations[crif.collect[0]] == expected
    assert crif.regulations[0] == () and crif.collect[1] == 0
    assert crif.regulations == tuple(sorted({(), expected}))


# ---------------------------------------------------------------- codes

TEXTS = st.one_of(st.none(), st.text("ab", max_size=2), st.text(max_size=3))


@given(
    st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=60),
    st.integers(1, 5),
    st.sampled_from([1, 30, 1 << 21]),
)
@settings(max_examples=100, deadline=None)
def test_distinct_rows_have_distinct_codes(
    rows: list[tuple[str | None, ...]], repeat: int, table: int
) -> None:
    rows = [line for line in rows for _ in range(repeat)]
    frame = pl.DataFrame(rows, schema=dict.fromkeys("xyz", pl.String()), orient="row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crif_codes, "_TABLE", table)
        codes, first = crif_codes.distinct(list(frame))
    assert [rows[first[code]] for code in codes] == rows
    assert len(first) == len(set(rows)) == len({rows[at] for at in first})


def test_many_distinct_texts_are_hashed() -> None:
    texts = [f"name {number}" for number in range(3000)]
    columns = [pl.Series(np.random.default_rng(seed).permutation(texts)) for seed in range(4)]
    codes, first = crif_codes.distinct([*columns, *columns])
    assert len(first) == 3000 and sorted(codes.tolist()) == list(range(3000))
    assert np.array_equal(first[codes], np.arange(3000))


# ---------------------------------------------------------------- vectors


def test_the_unit_tests_of_the_standard_read_without_failure() -> None:
    path = simm_case.vectors() / "simm" / "unit481_crif.csv"
    crif = read_crif(path)
    plain = pl.read_csv(path, infer_schema=False)
    assert crif.failures.is_empty() and len(crif) == plain.height
    assert crif.portfolios.to_list() == sorted(plain["PortfolioID"].unique())
    amount = plain["AmountUSD"].fill_null(plain["Amount"]).cast(pl.Float64)
    assert crif.amount.tolist() == amount.to_list()
    assert crif.portfolios[crif.portfolio].to_list() == plain["PortfolioID"].to_list()
    assert crif.factors["risk_type"][crif.factor].to_list() == plain["RiskType"].to_list()
    table: Any = pa.table({name: plain[name].to_list() for name in plain.columns})
    same(read_crif(table), crif)


def test_the_records_of_the_other_vectors_read_without_failure() -> None:
    folder = simm_case.vectors() / "simm"
    sets = [case["records"] for case in json.loads((folder / "schedule.json").read_text())["cases"]]
    for path in sorted(folder.glob("v2.5_*.json")):
        sets.append(list(json.loads(path.read_text())["records"].values()))
    assert len(sets) > 3
    for records in sets:
        crif = read_crif(pl.DataFrame(records, infer_schema_length=None))
        assert crif.failures.is_empty() and len(crif) == len(records)


# ---------------------------------------------------------------- notionals of trades


TRADE = "TradeID,IMModel,ProductClass,RiskType,AmountUSD,EndDate,Notional,notional_currency"


def test_rows_of_schedule_may_say_what_the_notional_of_their_trade_is(tmp_path: Path) -> None:
    lines = [
        "t1,Schedule,FX,PV,5,,1000,eur",
        "t1,Schedule,FX,PV,6,,,",
        "t2,Schedule,FX,PV,7,,1e3,",
        "t3,Schedule,FX,PV,8,,1e3,XXX",
        "t4,Schedule,FX,PV,9,,many,USD",
        "t5,Schedule,FX,PV,9,,inf,USD",
        "t6,Schedule,FX,PV,9,,-1e30,EUR",
        "t7,Schedule,FX,PV,9,,-2000.5,USD",
        ",SIMM,RatesFX,Param_AddOnFixedAmount,9,,much,what",
    ]
    path = tmp_path / "trades.csv"
    path.write_text("\n".join([TRADE, *lines]))
    fx = pl.DataFrame({"currency": ["EUR"], "rate": [1.25]})
    for source in (path, pl.read_csv(path, infer_schema=False)):
        crif = read_crif(source, fx=fx)
        assert crif.notional.tolist() == [1250.0, 0.0, -2000.5, 0.0]
        assert [crif.trades[code] for code in crif.trade.tolist()] == ["t1", "t1", "t7", ""]
        found = crif.failures.select("row", "field").rows()
        wrong = ["notional_currency"] * 2 + ["notional"] * 3
        assert found == list(zip([3, 4, 5, 6, 7], wrong, strict=True))
