"""Combinations of PA2: how they are margined (X), options on them (Y), and their legs (Z)."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from gpu_margin.io.span_pa2_fields import Malformed, Record
from gpu_margin.span_tables import SPLITS

_SPLIT = ("S", "M")
_DELTA_ONLY = "D"

_LEGS = {
    "exchange": pl.String,
    "product": pl.String,
    "month": pl.String,
    "leg_exchange": pl.String,
    "leg_product": pl.String,
    "leg_type": pl.String,
    "leg_month": pl.String,
    "ratio": pl.Float64,
    "place": pl.Int64,
}


@dataclass
class Combinations:
    """What the records of combinations say.

    `methods` by product; `options` has the combination beneath an option product; `lost` the
    products some of whose records are malformed, and why.
    """

    methods: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    legs: list[tuple[str, str, str, str, str, str, str, float]] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)

    def method(self, record: Record) -> None:
        """An X record."""
        product = record.text(4, 13)
        try:
            self.methods[product] = record.code("combination margining method", 3, "SDMN")
        except Malformed as error:
            self.lost[product] = _reason("X", record, error)
            raise

    def option(self, record: Record) -> None:
        """A Y record."""
        self.options[record.text(13, 22)] = record.text(3, 12)

    def leg(self, record: Record) -> None:
        """A Z record."""
        product = record.text(6, 15)
        try:
            side = record.side("leg relationship", 39)
            rest = record.text(64, 67)
            # Anything that is no number says that there is no fraction.
            part = int(rest) if rest.isascii() and rest.isdigit() else 0
            ratio = ((record.number("leg ratio", 40, 42) or 0) * 10_000 + part) / 10_000
            if not ratio:
                raise Malformed("leg ratio", "0", "is nought")
            self.legs.append(
                (
                    record.text(3, 5),
                    product,
                    record.month("combination month", 21, 27),
                    record.text(3, 5),
                    record.text(43, 52),
                    record.text(53, 55),
                    record.month("leg month", 56, 62),
                    side * ratio,
                )
            )
        except Malformed as error:
            self.lost[product] = _reason("Z", record, error)
            raise

    def splits(
        self, contracts: pl.DataFrame, under: pl.Series, styles: dict[str, str]
    ) -> tuple[pl.DataFrame, pl.Series]:
        """Rows of `SPLITS`, and [contract] why it is refused ("" where it is not).

        `under` [contract] are the products beneath; `styles` the methods of combined commodities.
        """
        if not self.legs and not self.lost:
            return pl.DataFrame(schema=SPLITS), contracts["refused"]
        rows = self._methods(contracts, under, styles)
        told = self._told(rows)
        made = self._with_legs(rows.filter(pl.col("method").is_in([*_SPLIT, _DELTA_ONLY])))
        found = made.join(_targets(contracts), on=_TARGET, how="left", maintain_order="left")
        told |= dict(
            found.filter(pl.col("leg").is_null())
            .select(
                "contract",
                pl.format("its leg {}:{}:{}:{} is not in the file", *_TARGET),
            )
            .iter_rows()
        )
        known = dict(enumerate(contracts["refused"].to_list())) if len(found) else {}
        for contract, leg in found.select("contract", "leg").iter_rows():
            if known.get(leg):
                told.setdefault(contract, f"a leg of it is refused: {known[leg]}")
        ratios = found.filter(~pl.col("contract").is_in(list(told)))
        return ratios.select(SPLITS.names()).cast(SPLITS), _with(contracts["refused"], told)

    def _methods(
        self, contracts: pl.DataFrame, under: pl.Series, styles: dict[str, str]
    ) -> pl.DataFrame:
        """Contracts of products that are combinations or have options on them, and methods."""
        option = pl.col("right") != ""
        beneath = (
            pl.when(option)
            .then(pl.col("product").replace_strict(self.options, default=pl.col("under")))
            .otherwise(pl.lit(""))
        )
        combined = {leg[1] for leg in self.legs} | set(self.lost)
        rows = contracts.select(
            "combined_commodity",
            "exchange",
            "product",
            "right",
            pl.col("delta_month").alias("month"),
            under.alias("under"),
            pl.int_range(pl.len(), dtype=pl.Int64).alias("contract"),
        ).with_columns(beneath.alias("under"))
        rows = rows.filter(
            pl.col("product").is_in(list(combined)) | pl.col("under").is_in(list(combined))
        )
        own = pl.col("product").replace_strict(self.methods, default=None, return_dtype=pl.String)
        other = pl.col("under").replace_strict(self.methods, default=None, return_dtype=pl.String)
        home = pl.col("combined_commodity").replace_strict(
            styles, default="", return_dtype=pl.String
        )
        chosen = pl.coalesce(own, pl.when(option).then(other), pl.lit(""))
        return rows.with_columns(pl.when(chosen == "").then(home).otherwise(chosen).alias("method"))

    def _told(self, rows: pl.DataFrame) -> dict[int, str]:
        """Contracts of malformed combinations, and of methods that are none."""
        told = {}
        known = ("", "N", *_SPLIT, _DELTA_ONLY)
        chosen = rows.filter(
            pl.col("product").is_in(list(self.lost))
            | pl.col("under").is_in(list(self.lost))
            | ~pl.col("method").is_in(known)
        )
        for contract, product, under, method in chosen.select(
            "contract", "product", "under", "method"
        ).iter_rows():
            lost = self.lost.get(product) or self.lost.get(under)
            told[contract] = lost or f"combination margining method {method} is not done"
        return told

    def _with_legs(self, rows: pl.DataFrame) -> pl.DataFrame:
        """A row for each leg of each contract: its own combination's, else that beneath it."""
        placed = [(*leg, place) for place, leg in enumerate(self.legs)]
        legs = pl.DataFrame(placed, schema=_LEGS, orient="row")
        key = ["exchange", "product", "month"]
        own = rows.join(legs, on=key)
        beneath = rows.filter(pl.col("right") != "").join(
            legs.select(key).unique(), on=key, how="anti"
        )
        other = beneath.join(
            legs, left_on=["exchange", "under", "month"], right_on=key, suffix="_leg"
        )
        columns = ["contract", "right", "method", *_TARGET, "ratio", "place"]
        every = pl.concat([own.select(columns), other.select(columns)]).sort("contract", "place")
        replaced = (pl.col("right") == "") & pl.col("method").is_in(_SPLIT)
        return every.with_columns(replaced.alias("replaced"))


_TARGET = ["leg_exchange", "leg_product", "leg_type", "leg_month"]


def _targets(contracts: pl.DataFrame) -> pl.DataFrame:
    """Contracts that a leg may be, by what a Z record calls them; the first of equals."""
    return (
        contracts.select(
            pl.col("exchange").alias("leg_exchange"),
            pl.col("product").alias("leg_product"),
            pl.col("type").alias("leg_type"),
            pl.col("delta_month").alias("leg_month"),
            "right",
            pl.int_range(pl.len(), dtype=pl.Int64).alias("leg"),
        )
        .filter(pl.col("right") == "")
        .drop("right")
        .unique(_TARGET, keep="first", maintain_order=True)
    )


def _with(refused: pl.Series, told: dict[int, str]) -> pl.Series:
    if not told:
        return refused
    texts = refused.to_list()
    for contract, reason in told.items():
        texts[contract] = texts[contract] or reason
    return pl.Series("refused", texts, dtype=pl.String)


def _reason(kind: str, record: Record, error: Malformed) -> str:
    return f"its {kind} record in line {record.row} is malformed: {error.field}"
