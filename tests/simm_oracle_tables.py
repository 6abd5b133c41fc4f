"""The raw SIMM figures of one version, as the slow oracle reads them."""

from __future__ import annotations

import re
from typing import Any

from simm_case import raw_parameters

KINDS = {  # risk type -> risk class, margin type
    "Risk_IRCurve": ("InterestRate", "Delta"),
    "Risk_Inflation": ("InterestRate", "Delta"),
    "Risk_XCcyBasis": ("InterestRate", "Delta"),
    "Risk_IRVol": ("InterestRate", "Vega"),
    "Risk_InflationVol": ("InterestRate", "Vega"),
    "Risk_CreditQ": ("CreditQualifying", "Delta"),
    "Risk_CreditVol": ("CreditQualifying", "Vega"),
    "Risk_BaseCorr": ("CreditQualifying", "BaseCorr"),
    "Risk_CreditNonQ": ("CreditNonQualifying", "Delta"),
    "Risk_CreditVolNonQ": ("CreditNonQualifying", "Vega"),
    "Risk_Equity": ("Equity", "Delta"),
    "Risk_EquityVol": ("Equity", "Vega"),
    "Risk_Commodity": ("Commodity", "Delta"),
    "Risk_CommodityVol": ("Commodity", "Vega"),
    "Risk_FX": ("FX", "Delta"),
    "Risk_FXVol": ("FX", "Vega"),
}
WITHOUT_LABELS = {
    "Risk_Inflation",
    "Risk_XCcyBasis",
    "Risk_FX",
    "Risk_Equity",
    "Risk_Commodity",
    "Risk_BaseCorr",
}
WITH_LABEL2 = {
    "Risk_IRCurve",
    "Risk_CreditQ",
    "Risk_CreditVol",
    "Risk_CreditNonQ",
    "Risk_CreditVolNonQ",
}
OF_CURRENCIES = {"InterestRate", "FX"}
OVER_TENORS = ("Equity", "Commodity", "FX")  # their vega and curvature net over tenors
MILLION = 1e6


def pair_of(qualifier: str) -> tuple[str, str]:
    """The two currencies of a pair, in order."""
    letters = re.sub("[^A-Z]", "", qualifier.upper())
    one, other = sorted((letters[:3], letters[3:]))
    return one, other


class Tables:
    """The figures of one version, read as they are stored."""

    def __init__(self, version: str, horizon: str, currency: str) -> None:
        self.raw = raw_parameters(version)
        self.horizon = horizon
        self.currency = currency.upper()

    def weight(self, risk_class: str, name: str, bucket: str = "") -> float:
        found = self.raw[risk_class]["risk_weights"][self.horizon][name]
        return found[bucket] if isinstance(found, dict) else found

    def hvr(self, risk_class: str) -> float:
        return self.weight(risk_class, "HistoricalVolatilityRatio")

    def group(self, risk_class: str, purpose: str, currency: str) -> str:
        lists = self.raw[risk_class][f"currency_lists_{purpose}"]
        other = next(group for group, names in lists.items() if "Other" in names)
        return next((group for group, names in lists.items() if currency in names), other)

    def threshold(self, risk_class: str, margin: str, key: str) -> float:
        """USD."""
        found = self.raw[risk_class]["concentration_thresholds_usd_m"][margin]
        return (found[key] if isinstance(found, dict) else found) * MILLION

    def correlation(self, risk_class: str, name: str) -> Any:
        return self.raw[risk_class]["correlations"][name]

    def tenors(self, one: str, other: str) -> float:
        names = self.raw["tenors"]
        table = self.correlation("InterestRate", "IntraBucket")
        return table[names.index(one)][names.index(other)]

    def fx_weight(self, one: str, other: str) -> float:
        """Risk weight between two currencies."""
        found = self.raw["FX"]["risk_weights"][self.horizon]["Delta"]
        if not isinstance(found, dict):
            return found
        return found[self.group("FX", "rw", one)][self.group("FX", "rw", other)]

    def fx_correlation(self, one: str, other: str) -> float:
        found = self.correlation("FX", "IntraBucket")
        for currency in (self.currency, one, other):
            if isinstance(found, dict):
                found = found[self.group("FX", "rw", currency)]
        return found

    def between(self, risk_class: str, one: str, other: str) -> float:
        """Correlation of two buckets (of two currencies for interest rates)."""
        if risk_class == "InterestRate":
            return self.correlation(risk_class, "Outer")
        table = self.correlation(risk_class, "InterBucket")
        if isinstance(table, dict):
            return table[one][other]
        return table[int(one) - 1][int(other) - 1]

    def psi(self, one: str, other: str) -> float:
        names = self.raw["risk_class_order"]
        return self.raw["risk_class_correlations"][names.index(one)][names.index(other)]
