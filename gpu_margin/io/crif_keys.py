"""What a distinct combination of a CRIF's texts means: a risk factor in normal form, or a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from gpu_margin.crif import PRODUCT_CLASSES, SCHEDULE_CLASSES
from gpu_margin.io.crif_columns import KEY_COLUMNS
from gpu_margin.io.tables import NO_TEXT

TENORS = ("2w", "1m", "3m", "6m", "1y", "2y", "3y", "5y", "10y", "15y", "20y", "30y")
SIMM, SCHEDULE = 0, 1
MONEY, PLAIN, MULTIPLIER = range(3)

_CURRENCY = re.compile("[A-Z]{3}")
_PAIR = re.compile("[A-Z]{6}")
_BUCKET = re.compile("0*([1-9][0-9]{0,8})")
_CURVES = ("OIS", "Libor1m", "Libor3m", "Libor6m", "Libor12m", "Prime", "Municipal")

Texts = tuple[str, ...]
_T = TypeVar("_T")


class Fault(Exception):
    """Why the texts mean nothing: `field` is the column to blame."""

    def __init__(self, reason: str, field: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True)
class Key:
    """The meaning of a distinct combination of texts.

    `factor` has the columns of `Crif.factors`; `unit` is MONEY, PLAIN (a percentage) or MULTIPLIER;
    `dated` says that rows need an end date. Where `reason` is not empty, the texts mean nothing:
    `field` and `value` say why.
    """

    FIGURES: ClassVar[Texts] = ("model", "product_class", "schedule_class", "unit", "dated", "bad")

    model: int = SIMM
    product_class: int = -1
    schedule_class: int = -1
    factor: Texts = ("",) * 5
    unit: int = MONEY
    dated: bool = False
    reason: str = ""
    field: str = ""
    value: str | None = None

    @property
    def bad(self) -> bool:
        """Whether the texts mean nothing."""
        return bool(self.reason)

    @property
    def figures(self) -> list[int]:
        """What `FIGURES` names, as numbers."""
        return [int(getattr(self, name)) for name in self.FIGURES]


@dataclass(frozen=True)
class _Kind:
    """How the parts of a risk type are read, "" being what it has not."""

    name: str
    qualifier: Callable[[str], str]
    bucket: bool = False
    tenor: bool = False
    label2: Callable[[str], str] | None = None
    product: bool = True
    unit: int = MONEY


def meaning(texts: Sequence[str | None]) -> Key:
    """The meaning of texts in the order of `KEY_COLUMNS`."""
    model, product, risk, *parts = ((text or "").strip() for text in texts)
    try:
        if _model(model) == SCHEDULE:
            return _schedule(product, risk)
        return _simm(product, risk, *parts)
    except Fault as fault:
        value = texts[KEY_COLUMNS.index(fault.field)]
        return Key(reason=str(fault), field=fault.field, value=value)


def _model(text: str) -> int:
    models = {"": SIMM, "simm": SIMM, "schedule": SCHEDULE}
    return _known(text, models, "im_model", "unknown model: write SIMM or Schedule")


def _simm(product: str, risk: str, qualifier: str, bucket: str, label1: str, label2: str) -> Key:
    reason = "unknown risk type: see ISDA's CRIF for their names"
    if risk.lower() == "pv":
        reason = "a PV counts in Schedule only: set im_model to Schedule or leave the row out"
    kind = _known(risk, _KINDS, "risk_type", _missing(risk, "risk_type") or reason)
    found = -1
    if kind.product:
        names = ", ".join(PRODUCT_CLASSES)
        way_out = _missing(product, "product_class") or f"unknown product class: write {names}"
        found = _known(product, _PRODUCTS, "product_class", way_out)
    factor = (
        kind.name,
        kind.qualifier(_text(qualifier, "qualifier")),
        _bucket(bucket) if kind.bucket else "",
        _tenor(label1) if kind.tenor else "",
        kind.label2(_text(label2, "label2")) if kind.label2 else "",
    )
    return Key(product_class=found, factor=factor, unit=kind.unit)


def _schedule(product: str, risk: str) -> Key:
    risks = {"notional": "Notional", "pv": "PV"}
    way_out = _missing(risk, "risk_type") or "Schedule has only Notional and PV: correct the model"
    name = _known(risk, risks, "risk_type", way_out)
    way_out = f"unknown product class of Schedule: write {', '.join(SCHEDULE_CLASSES)}"
    way_out = _missing(product, "product_class") or way_out
    place = _known(product, _SCHEDULES, "product_class", way_out)
    factor = (name, "", "", "", "")
    dated = name == "Notional" and SCHEDULE_CLASSES[place] in ("Rates", "Credit")
    return Key(SCHEDULE, schedule_class=place, factor=factor, dated=dated)


def _known(text: str, names: dict[str, _T], field: str, reason: str) -> _T:
    found = names.get(text.lower())
    if found is None:
        raise Fault(reason, field)
    return found


def _missing(text: str, field: str) -> str:
    return "" if text else f"missing {field}: give a value"


def _text(text: str, field: str) -> str:
    if NO_TEXT in text:
        raise Fault(f"{field} is not text: bytes that are not UTF-8, or a list", field)
    return text


def _any_name(text: str) -> str:
    if not text:
        raise Fault(_missing(text, "qualifier"), "qualifier")
    return text


def _currency(text: str) -> str:
    currency = _any_name(text).upper()
    if not _CURRENCY.fullmatch(currency):
        raise Fault("qualifier is not a currency: write its three letters", "qualifier")
    return currency


def _pair(text: str) -> str:
    pair = _any_name(text).upper()
    if not _PAIR.fullmatch(pair):
        raise Fault("qualifier is not a pair of currencies: write six letters", "qualifier")
    one, other = sorted((pair[:3], pair[3:]))
    if one == other:
        raise Fault("a pair of equal currencies: write two different ones", "qualifier")
    return one + other


def _product(text: str) -> str:
    names = ", ".join(PRODUCT_CLASSES)
    reason = f"qualifier is not a product class: write {names}"
    return PRODUCT_CLASSES[_known(_any_name(text), _PRODUCTS, "qualifier", reason)]


def _bucket(text: str) -> str:
    if text.lower() == "residual":
        return "Residual"
    match = _BUCKET.fullmatch(text)
    if match is None:
        reason = "unknown bucket: write its number, from 1, or Residual"
        raise Fault(_missing(text, "bucket") or reason, "bucket")
    return match[1]


def _tenor(text: str) -> str:
    tenor = text.lower()
    if tenor not in TENORS:
        reason = f"unknown tenor: write one of {', '.join(TENORS)}"
        raise Fault(_missing(text, "label1") or reason, "label1")
    return tenor


def _curve(text: str) -> str:
    """A sub-curve; the usual ones in one spelling."""
    return {name.lower(): name for name in _CURVES}.get(text.lower(), text)


def _as_it_is(text: str) -> str:
    return text


_PRODUCTS = {name.lower(): place for place, name in enumerate(PRODUCT_CLASSES)}
_PRODUCTS |= {"rates": 0, "fx": 0}
_SCHEDULES = {name.lower(): place for place, name in enumerate(SCHEDULE_CLASSES)}
_KINDS = {
    kind.name.lower(): kind
    for kind in (
        _Kind("Risk_IRCurve", _currency, tenor=True, label2=_curve),
        _Kind("Risk_Inflation", _currency),
        _Kind("Risk_XCcyBasis", _currency),
        _Kind("Risk_IRVol", _currency, tenor=True),
        _Kind("Risk_InflationVol", _currency, tenor=True),
        _Kind("Risk_CreditQ", _any_name, bucket=True, tenor=True, label2=_as_it_is),
        _Kind("Risk_CreditVol", _any_name, bucket=True, tenor=True, label2=_as_it_is),
        _Kind("Risk_BaseCorr", _any_name),
        _Kind("Risk_CreditNonQ", _any_name, bucket=True, tenor=True, label2=_as_it_is),
        _Kind("Risk_CreditVolNonQ", _any_name, bucket=True, tenor=True, label2=_as_it_is),
        _Kind("Risk_Equity", _any_name, bucket=True),
        _Kind("Risk_EquityVol", _any_name, bucket=True, tenor=True),
        _Kind("Risk_Commodity", _any_name, bucket=True),
        _Kind("Risk_CommodityVol", _any_name, bucket=True, tenor=True),
        _Kind("Risk_FX", _currency),
        _Kind("Risk_FXVol", _pair, tenor=True),
        _Kind("Param_ProductClassMultiplier", _product, product=False, unit=MULTIPLIER),
        _Kind("Param_AddOnNotionalFactor", _any_name, product=False, unit=PLAIN),
        _Kind("Param_AddOnFixedAmount", _as_it_is, product=False),
        _Kind("Notional", _any_name, product=False),
    )
}
