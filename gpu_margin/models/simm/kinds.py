"""What CRIF rows can be: risk types, the streams that they flow in, and the order of everything."""

from __future__ import annotations

RISK_CLASSES = (
    "InterestRate",
    "CreditQualifying",
    "CreditNonQualifying",
    "Equity",
    "Commodity",
    "FX",
)
MARGIN_TYPES = ("Delta", "Vega", "Curvature", "BaseCorr")
SIDES = ("Call", "Post")
HORIZONS = ("10d", "1d")

# A stream is one risk class under one margin type: delta, base correlation, vega (and curvature).
DELTA, BASE_CORRELATION, VEGA = 0, len(RISK_CLASSES), len(RISK_CLASSES) + 1
STREAMS = VEGA + len(RISK_CLASSES)

_INTEREST, _CREDIT_Q, _CREDIT_NON_Q, _EQUITY, _COMMODITY, _FX = range(len(RISK_CLASSES))
STREAM_OF = {
    "Risk_IRCurve": DELTA + _INTEREST,
    "Risk_Inflation": DELTA + _INTEREST,
    "Risk_XCcyBasis": DELTA + _INTEREST,
    "Risk_CreditQ": DELTA + _CREDIT_Q,
    "Risk_CreditNonQ": DELTA + _CREDIT_NON_Q,
    "Risk_Equity": DELTA + _EQUITY,
    "Risk_Commodity": DELTA + _COMMODITY,
    "Risk_FX": DELTA + _FX,
    "Risk_BaseCorr": BASE_CORRELATION,
    "Risk_IRVol": VEGA + _INTEREST,
    "Risk_InflationVol": VEGA + _INTEREST,
    "Risk_CreditVol": VEGA + _CREDIT_Q,
    "Risk_CreditVolNonQ": VEGA + _CREDIT_NON_Q,
    "Risk_EquityVol": VEGA + _EQUITY,
    "Risk_CommodityVol": VEGA + _COMMODITY,
    "Risk_FXVol": VEGA + _FX,
}
# Within interest rates: the curve, inflation, cross-currency basis.
CURVE, INFLATION, BASIS = range(3)
KIND_OF = {
    "Risk_Inflation": INFLATION,
    "Risk_InflationVol": INFLATION,
    "Risk_XCcyBasis": BASIS,
}


def risk_class(stream: int) -> int:
    """The place in `RISK_CLASSES` of a stream's class."""
    if stream == BASE_CORRELATION:
        return _CREDIT_Q
    return stream - VEGA if stream >= VEGA else stream - DELTA
