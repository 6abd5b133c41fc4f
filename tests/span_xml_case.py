"""Small SPAN XML files for the tests of their reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.io import span_xml
from gpu_margin.span_tables import SCHEMAS, SpanTables

SIXTEEN = " ".join(str(step) for step in (0, 0, -1, -1, 1, 1, -2, -2, 2, 2, -3, -3, 3, 3, -4, 4))


def tag(name: str, *inner: Any) -> str:
    """An element with text or others in it."""
    return f"<{name}>{''.join(str(one) for one in inner)}</{name}>"


def tags(**values: Any) -> str:
    """Elements one after the other, by their names."""
    return "".join(tag(name, value) for name, value in values.items())


def array(values: str = SIXTEEN, delta: Any = 1, rate: int = 1) -> str:
    each = "".join(tag("a", value) for value in values.split())
    return tag("ra", tag("r", rate), each, tag("d", delta))


def future(month: str = "202609", extra: str = "", values: str = SIXTEEN, number: int = 1) -> str:
    return tag("fut", tags(cId=number, pe=month, p=100), extra, array(values))


def option(right: str = "C", strike: Any = 100, extra: str = "", values: str = SIXTEEN) -> str:
    return tag("opt", tags(cId=1, o=right, k=strike, p="2.5"), extra, array(values, 0.5))


def series(*options: str, month: str = "202609", extra: str = "") -> str:
    return tag("series", tags(pe=month), extra, *options)


def family(name: str, number: int, code: str, *contracts: str, style: str = "EQTY") -> str:
    told = tags(pfId=number, pfCode=code, currency="USD", cvf=50, valueMeth=style)
    return tag(name, told, *contracts)


def links(*numbers: int) -> str:
    return "".join(tag("pfLink", tags(exch="X", pfId=number)) for number in numbers)


def commodity(code: str, *numbers: int, extra: str = "", currency: str = "USD") -> str:
    return tag("ccDef", tags(cc=code, currency=currency), links(*numbers), extra)


def points(*steps: tuple[int, Any, int]) -> str:
    """A grid of (number, move of the price, paired point)."""
    return tag(
        "pointDef",
        *(
            tag(
                "scanPointDef",
                tag("point", number),
                tag("priceScanDef", tag("mult", move)),
                tag("pairedPoint", pair),
            )
            for number, move, pair in steps
        ),
    )


def document(*inner: str, families: str = "", above: str = "") -> str:
    """A file with a clearing organisation, and an exchange X of some families."""
    exchange = tag("exchange", tags(exch="X"), families) if families else ""
    house = tag("clearingOrg", tags(ec="XC", isNetMargin=1), above, exchange, *inner)
    time = tag("pointInTime", tags(date="20260901", isSetl=1), house)
    return tag("spanFile", tags(fileFormat="4.00", created="202609010900"), time)


def one_future(extra: str = "", above: str = "", contract: str | None = None) -> str:
    """A file with one commodity C of the future F."""
    families = family("futPf", 1, "F", future() if contract is None else contract, style="FUT")
    return document(commodity("C", 1, extra=extra), families=families, above=above)


def read(text: str | bytes, folder: Path, **how: Any) -> SpanTables:
    """What the reader makes of a file with this text."""
    path = folder / "file.spn"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return span_xml.read_spn(path, **how)


def read_slowly(text: str | bytes, folder: Path, monkeypatch: Any, **how: Any) -> SpanTables:
    """The same by the reader that knows all of XML."""
    with monkeypatch.context() as patch:
        patch.setattr(span_xml, "scan", lambda text: None)
        return read(text, folder, **how)


def assert_same(one: SpanTables, other: SpanTables) -> None:
    """Whether two readings are equal in all tables, arrays, grids and facts."""
    for name in (*SCHEMAS, "failures"):
        assert getattr(one, name).equals(getattr(other, name)), name
        assert getattr(one, name).schema == getattr(other, name).schema
    assert np.array_equal(one.arrays, other.arrays)
    assert one.limit == other.limit and one.facts == other.facts
    assert len(one.grids) == len(other.grids)
    for mine, yours in zip(one.grids, other.grids, strict=True):
        assert np.array_equal(mine.pair, yours.pair) and np.array_equal(mine.still, yours.still)


def refused(tables: SpanTables, code: str = "C") -> str:
    """Why a combined commodity cannot be margined."""
    own = tables.commodities.filter(pl.col("combined_commodity") == code)
    return str(own["refused"].item())


def told(tables: SpanTables) -> list[tuple[Any, ...]]:
    """Field and value of all failures."""
    return tables.failures.select("field", "value").rows()
