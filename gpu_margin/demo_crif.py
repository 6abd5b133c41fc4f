"""Made-up sensitivities of three clients, in ISDA's Common Risk Interchange Format.

A pension fund with long swaps, a hedge fund with credit, shares and options, and a utility with
energy: trades in all six risk classes of SIMM, and no random number.
"""

from __future__ import annotations

import polars as pl

# A row: risk type, qualifier, bucket, label1, label2, amount in USD. Amounts are per basis point
# (rates, credit), per percent (shares, commodities, FX), or vega times volatility.
Row = tuple[str, str, str, str, str, float]


def _curve(currency: str, curve: str, amounts: dict[str, float]) -> list[Row]:
    """A rates curve by tenor."""
    bucket = {"JPY": "2"}.get(currency, "1")
    return [("Risk_IRCurve", currency, bucket, at, curve, amount) for at, amount in amounts.items()]


def _terms(kind: str, name: str, bucket: str, amounts: dict[str, float]) -> list[Row]:
    """Credit spreads or volatilities by tenor."""
    return [(kind, name, bucket, at, "", amount) for at, amount in amounts.items()]


def _one(kind: str, name: str, bucket: str, amount: float) -> list[Row]:
    """What has no tenor."""
    return [(kind, name, bucket, "", "", amount)]


def _fx(**amounts: float) -> list[Row]:
    return [("Risk_FX", currency, "", "", "", amount) for currency, amount in amounts.items()]


def _tranche(name: str, group: str, amounts: dict[str, float]) -> list[Row]:
    return [("Risk_CreditNonQ", name, "1", at, group, amount) for at, amount in amounts.items()]


# Portfolio -> trade -> product class and rows.
_Book = dict[str, dict[str, tuple[str, list[Row]]]]

_PENSION: dict[str, tuple[str, list[Row]]] = {
    "swap-EUR-30y": (
        "RatesFX",
        _curve("EUR", "OIS", {"5y": 1_900, "10y": 9_400, "20y": 41_000, "30y": 268_000})
        + _fx(EUR=31_500),
    ),
    "swap-EUR-10y": (
        "RatesFX",
        _curve("EUR", "Libor6m", {"2y": 410, "5y": 2_300, "10y": 86_500}) + _fx(EUR=-4_200),
    ),
    "swap-GBP-20y": (
        "RatesFX",
        _curve("GBP", "OIS", {"5y": 1_200, "10y": 8_800, "20y": 132_000}) + _fx(GBP=18_900),
    ),
    "inflation-GBP-20y": (
        "RatesFX",
        _one("Risk_Inflation", "GBP", "", -118_000)
        + _curve("GBP", "OIS", {"20y": 14_500})
        + _fx(GBP=-6_700),
    ),
    "xccy-JPY-5y": (
        "RatesFX",
        _curve("JPY", "OIS", {"3y": 1_100, "5y": -44_000})
        + _curve("USD", "OIS", {"3y": -900, "5y": 43_200})
        + _one("Risk_XCcyBasis", "JPY", "", 45_000)
        + _fx(JPY=-930_000),
    ),
    "swaption-EUR-5y10y": (
        "RatesFX",
        _curve("EUR", "OIS", {"5y": -21_000, "15y": 52_000})
        + _terms("Risk_IRVol", "EUR", "", {"5y": 640_000, "10y": 210_000}),
    ),
}
_HEDGE: dict[str, tuple[str, list[Row]]] = {
    "cds-bank-5y": (
        "Credit",
        _terms("Risk_CreditQ", "ISIN:BANK", "2", {"3y": -900, "5y": -24_100}),
    ),
    "cds-energy-5y": (
        "Credit",
        _terms("Risk_CreditQ", "ISIN:ENERGY", "3", {"3y": 700, "5y": 19_800}),
    ),
    "cds-airline-3y": ("Credit", _terms("Risk_CreditQ", "ISIN:AIRLINE", "10", {"3y": 8_300})),
    "index-option-6m": (
        "Credit",
        _terms("Risk_CreditQ", "INDEX:IG", "4", {"5y": 12_600})
        + _terms("Risk_CreditVol", "INDEX:IG", "4", {"6m": 85_000}),
    ),
    "tranche-IG-5y": (
        "Credit",
        _terms("Risk_CreditQ", "INDEX:IG", "4", {"5y": -31_000})
        + _one("Risk_BaseCorr", "INDEX:IG", "", 74_000),
    ),
    "rmbs-2034": ("Credit", _tranche("ISIN:RMBS34", "RMBS", {"3y": -2_100, "5y": -4_800})),
    "rmbs-2037": ("Credit", _tranche("ISIN:RMBS37", "RMBS", {"5y": 3_900})),
    "trs-software": ("Equity", _one("Risk_Equity", "ISIN:SOFTWARE", "8", 310_000)),
    "trs-carmaker": ("Equity", _one("Risk_Equity", "ISIN:CARMAKER", "5", -185_000)),
    "call-index-1y": (
        "Equity",
        _one("Risk_Equity", "INDEX:SP500", "11", -96_000)
        + _terms("Risk_EquityVol", "INDEX:SP500", "11", {"6m": -140_000, "1y": -420_000}),
    ),
    "variance-index-3m": (
        "Equity",
        _terms("Risk_EquityVol", "INDEX:VOLATILITY", "12", {"1m": 60_000, "3m": 190_000}),
    ),
    "fx-option-EURUSD-3m": (
        "RatesFX",
        _fx(EUR=-540_000) + _terms("Risk_FXVol", "EURUSD", "", {"1m": 45_000, "3m": 310_000}),
    ),
    "fx-option-USDBRL-6m": (
        "RatesFX",
        _fx(BRL=260_000) + _terms("Risk_FXVol", "USDBRL", "", {"6m": -175_000}),
    ),
}
_UTILITY: dict[str, tuple[str, list[Row]]] = {
    "gas-winter": ("Commodity", _one("Risk_Commodity", "NBP", "7", 420_000)),
    "power-baseload": ("Commodity", _one("Risk_Commodity", "Germany Power", "9", -610_000)),
    "coal-2027": ("Commodity", _one("Risk_Commodity", "API2", "1", -130_000)),
    "carbon-2026": ("Commodity", _one("Risk_Commodity", "EU Emissions", "10", 95_000)),
    "oil-collar-1y": (
        "Commodity",
        _one("Risk_Commodity", "Brent", "2", -205_000)
        + _terms("Risk_CommodityVol", "Brent", "2", {"6m": 70_000, "1y": -230_000}),
    ),
    "fx-forward-USD-1y": ("RatesFX", _fx(EUR=-1_350_000) + _curve("EUR", "OIS", {"1y": -1_300})),
    "swap-EUR-7y": (
        "RatesFX",
        _curve("EUR", "Libor3m", {"5y": -14_000, "10y": -23_500}) + _fx(EUR=2_600),
    ),
}
_CLIENTS: _Book = {"hedge-fund": _HEDGE, "pension-fund": _PENSION, "utility": _UTILITY}
# Trades to try: a receiver against the pension fund's long swaps, a put on the hedge fund's index.
_IDEAS: _Book = {
    "hedge-fund": {
        "put-index-1y": (
            "Equity",
            _one("Risk_Equity", "INDEX:SP500", "11", -41_000)
            + _terms("Risk_EquityVol", "INDEX:SP500", "11", {"1y": 360_000}),
        ),
    },
    "pension-fund": {
        "receiver-EUR-30y": (
            "RatesFX",
            _curve("EUR", "OIS", {"20y": -18_000, "30y": -121_000}) + _fx(EUR=-9_000),
        ),
    },
}
_COLUMNS = ("RiskType", "Qualifier", "Bucket", "Label1", "Label2", "AmountUSD")


def crif() -> pl.DataFrame:
    """The clients' trades, in the columns of a CRIF file."""
    return _table(_CLIENTS)


def ideas() -> pl.DataFrame:
    """Trades that they might add."""
    return _table(_IDEAS)


def _table(book: _Book) -> pl.DataFrame:
    rows = [
        {"PortfolioID": portfolio, "TradeID": trade, "ProductClass": product}
        | dict(zip(_COLUMNS, row, strict=True))
        for portfolio, trades in book.items()
        for trade, (product, own) in trades.items()
        for row in own
    ]
    amount = pl.col("AmountUSD").cast(pl.Float64)
    return pl.DataFrame(rows).with_columns(
        amount,
        amount.alias("Amount"),
        pl.lit("USD").alias("AmountCurrency"),
        pl.lit("SIMM").alias("IMModel"),
    )
