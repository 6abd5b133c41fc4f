"""Contracts of a synthetic exchange as elements of SPAN XML, made as columns of text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import BinaryIO

import numpy as np
import polars as pl
import span_xml_text
from numpy.typing import NDArray
from span_contracts import Exchange, Series, Values
from span_quotes import Quote
from span_terms import DATE, EXCHANGES, Commodity
from span_xml_text import BASE, FAMILIES, money, period, shifted, tag

Ints = NDArray[np.int64]


def decimals(numbers: Ints, places: int) -> pl.Series:
    """Whole numbers of 10^-places as text."""
    whole = pl.Series(np.abs(numbers))
    if places <= 0:
        texts = (whole * 10**-places).cast(pl.String)
    else:
        rest = (whole % 10**places).cast(pl.String).str.zfill(places)
        texts = (whole // 10**places).cast(pl.String) + "." + rest
    return pl.select(pl.when(pl.Series(numbers < 0)).then("-" + texts).otherwise(texts)).to_series()


def by_quote(quotes: list[Quote], owner: Ints, ticks: Ints) -> pl.Series:
    """Prices of contracts as text, each in the decimals of its quote."""
    exact, places = ticks.copy(), np.zeros(len(ticks), dtype=np.int64)
    for one in np.unique(owner).tolist():
        mine = owner == one
        exact[mine], places[mine] = quotes[one].decimals(ticks[mine]), quotes[one].places
    found = pl.Series([None] * len(ticks), dtype=pl.String)
    frame = pl.DataFrame({"row": np.arange(len(ticks)), "text": found})
    parts = []
    for place in np.unique(places).tolist():
        rows = np.flatnonzero(places == place)
        parts.append(frame[rows].with_columns(text=decimals(exact[rows], place)))
    return pl.concat(parts).sort("row")["text"]


def contracts(exchange: Exchange, found: Values) -> pl.DataFrame:
    """Text of contracts, an element each, with their series."""
    every, owner = exchange.commodities, exchange.commodity[found.row]
    place = np.array([one.locator - one.exponent for one in every])[owner]
    values = {}
    for point in range(16):
        numbers, texts = found.arrays[:, point], []
        for one in np.unique(place).tolist():
            rows = np.flatnonzero(place == one)
            texts.append(pl.DataFrame({"row": rows, "text": decimals(numbers[rows], one)}))
        values[f"a{point}"] = pl.concat(texts).sort("row")["text"]
    prices = by_quote([one.quote for one in every], owner, found.price)
    right = exchange.right[found.row]
    frame = pl.DataFrame({
        **values,
        "series": exchange.series_of[found.row],
        "number": found.row + 1,
        "right": pl.Series(np.array(["", "C", "P"])[right]),
        "strike": by_quote([one.strike for one in every], owner, exchange.strike[found.row]),
        "price": pl.select(pl.when(pl.Series(~found.missing)).then("<p>" + prices + "</p>\n")
                           .otherwise(pl.lit(""))).to_series(),
        "delta": decimals(found.delta, 4),
        "volatility": decimals(np.rint(found.volatility * 1e6).astype(np.int64), 6),
    })  # fmt: skip
    array = [pl.format("<a>{}</a>\n", f"a{point}") for point in range(16)]
    ra = pl.format("<ra><r>7</r>\n{}<d>{}</d>\n</ra>\n", pl.concat_str(array), "delta")
    option = pl.format(
        "<opt>\n<cId>{}</cId>\n<o>{}</o>\n<k>{}</k>\n{}<pq>0</pq>\n<d>{}</d>\n<v>{}</v>\n{}</opt>\n",
        *("number", "right", "strike", "price", "delta", "volatility"),
        ra,
    )
    single = pl.format("{}<d>1</d>\n<v>{}</v>\n{}", "price", "volatility", ra)
    return frame.select(
        "series", text=pl.when(pl.col("right") == "").then(single).otherwise(option)
    )


class Writer:
    """Writes an exchange; `plain` gives all families the code of their commodity, and all options
    on futures as options on the commodity itself, as exchanges of equities have them."""

    def __init__(self, exchange: Exchange, *, plain: bool = False) -> None:
        self.exchange, self.plain = exchange, plain
        owners = exchange.commodities
        products = [code for one in owners for code in one.products.values()]
        self.families = {code: number for number, code in enumerate(products, start=1)}

    @cached_property
    def futures(self) -> dict[tuple[int, str], int]:
        """Numbers of futures by commodity and month."""
        first = np.searchsorted(self.exchange.series_of, np.arange(len(self.exchange.series)))
        return {
            (one.commodity, one.future): int(row) + 1
            for one, row in zip(self.exchange.series, first, strict=True)
            if one.role == "future"
        }

    def write(self, out: BinaryIO, told: Callable[[int], None] = lambda _: None) -> None:
        """The whole file; `told` hears how many contracts are written."""

        def put(*texts: str) -> None:
            out.write("".join(texts).encode("ascii"))

        head = tag("fileFormat", "4.00"), tag("created", f"{DATE}1900")
        time = tag("date", DATE), tag("isSetl", 1), tag("setlQualifier", "final")
        put('<?xml version="1.0"?>\n<spanFile>\n', *head, "<pointInTime>\n", *time)
        put("<clearingOrg>\n", span_xml_text.beginning())
        texts = self.texts(told)
        for name in EXCHANGES:
            put("<exchange>\n", tag("exch", name))
            own = [one for one in self.exchange.commodities if one.exchange == name]
            put(*(self.spot(one) for one in own if one.kind == "OOP" or self.plain))
            for role in ("future", "option", "weekly", "combination"):
                put(*(self.family(one, role, texts[one.place, role]) for one in own
                      if texts[one.place, role]))  # fmt: skip
            put("</exchange>\n")
        put(*(span_xml_text.definition(one, self.links(one)) for one in self.exchange.commodities))
        for kind, above in (("superSpreads", True), ("interSpreads", False)):
            some = [one for one in self.exchange.spreads if one.above == above]
            put(tag(kind, *(span_xml_text.between(self.exchange, one) for one in some)))
        put("</clearingOrg>\n</pointInTime>\n</spanFile>\n")

    def links(self, one: Commodity) -> dict[str, tuple[int, str, str]]:
        """Number, code and type of the families of a commodity, by role."""
        return {
            role: (self.families[code], self.code(one, role), self.kind(one, role))
            for role, code in one.products.items()
        }

    def code(self, one: Commodity, role: str) -> str:
        return one.code if self.plain else one.products[role]

    def kind(self, one: Commodity, role: str) -> str:
        return "OOP" if self.plain and one.types[role] == "OOF" else one.types[role]

    def texts(self, told: Callable[[int], None]) -> dict[tuple[int, str], list[str]]:
        """Elements of futures, combinations and series, by commodity and role."""
        found: dict[tuple[int, str], list[str]] = defaultdict(list)
        parts: dict[int, list[str]] = defaultdict(list)
        done = 0
        for values in self.exchange.chunks():
            some = contracts(self.exchange, values).group_by("series", maintain_order=True)
            for number, text in some.agg(pl.col("text").str.join()).iter_rows():
                parts[number].append(text)
            done += len(values.row)
            told(done)
        for number, one in enumerate(self.exchange.series):
            if number in parts:
                found[one.commodity, one.role].append(self.element(one, "".join(parts[number])))
        return found

    def element(self, one: Series, text: str) -> str:
        """A future, a combination, or a series of options."""
        own = self.exchange.commodities[one.commodity]
        size = tag("priceScan", money(own, own.ranges[one.at])), tag("priceScanPct", 0)
        scan = tag("scanRate", tag("r", BASE), *size, tag("volScan", "0.25"), tag("volScanPct", 0))
        when, scaling = period(one.option or one.future), tag("sc", shifted(own.scaling, 4))
        if one.option:
            beneath = () if own.kind == "OOP" else (self.leg(own, one.future),)
            return tag("series", when, tag("v", own.volatility), scaling, *beneath, scan, text)
        number = tag("cId", self.number(one))
        legs = []
        if one.role == "combination":
            months = own.months[one.at : one.at + 2]
            legs = [self.leg(own, month, side) for month, side in zip(months, "AB", strict=True)]
        worth = tag("cvf", shifted(own.multiplier, 7))
        return tag("cmb" if legs else "fut", number, when, worth, scaling, *legs, scan, text)

    def number(self, one: Series) -> int:
        if one.role == "future":
            return self.futures[one.commodity, one.future]
        return len(self.exchange) + one.commodity + 1

    def leg(self, own: Commodity, month: str, side: str = "A") -> str:
        number = self.futures[own.place, month]
        where = tag("exch", own.exchange), tag("pfId", self.families[own.products["future"]])
        return tag("undC", *where, tag("cId", number), tag("s", side), tag("i", 1))

    def spot(self, one: Commodity) -> str:
        """The thing itself, without risk of its own."""
        price = shifted(int(one.quote.decimals(np.array([one.forward]))[0]), one.quote.places)
        thing = tag("phy", tag("cId", one.place + 1), tag("pe", "00000000"), tag("p", price))
        number = tag("pfId", len(self.families) + one.place + 1)
        return tag("phyPf", number, tag("pfCode", one.code), tag("cvf", 1), thing)

    def family(self, one: Commodity, role: str, texts: list[str]) -> str:
        """A product and what it has."""
        number, code, kind = self.links(one)[role]
        future = role in ("future", "combination") or one.style == "F"
        said = tag("pfId", number), tag("pfCode", code), tag("name", f"{role} of {one.code}")
        terms = tag("currency", one.settlement), tag("cvf", shifted(one.multiplier, 7))
        way = tag("valueMeth", "FUT" if future else "EQTY")
        return tag(FAMILIES[kind], *said, *terms, way, *texts)
