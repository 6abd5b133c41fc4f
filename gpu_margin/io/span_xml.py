"""SPAN risk parameter files in XML (.spn, file format 4.00) become `SpanTables`.

Exchanges in India, Poland and Australia publish such files, and clearing houses elsewhere use the
same form for what they approximate.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.failures import ConfigError, Failure, failure_table
from gpu_margin.io.span_xml_commodities import Commodities, joined
from gpu_margin.io.span_xml_contracts import Contracts, ranges_of, read_contracts
from gpu_margin.io.span_xml_expat import parse
from gpu_margin.io.span_xml_families import Singles, families_of, placed
from gpu_margin.io.span_xml_files import read_text
from gpu_margin.io.span_xml_rates import Rates, rates_of
from gpu_margin.io.span_xml_scan import scan
from gpu_margin.io.span_xml_splits import splits_of
from gpu_margin.io.span_xml_spreads import spreads_between
from gpu_margin.io.span_xml_tree import Bad, Node, Tree
from gpu_margin.span_tables import SCHEMAS, SIXTEEN, SpanTables

Row = dict[str, Any]
FORMAT = "SPAN XML 4.00"

# Names of elements that are read, or that only hold those that are.
_NAMES = """
    spanFile fileFormat created pointInTime date isSetl setlQualifier clearingOrg ec isNetMargin
    capAnov curConv fromCur toCur factor pbRateDef r acctType isM pbc pointDef scanPointDef point
    priceScanDef mult numerator pairedPoint exchange exch futPf fwdPf phyPf equityPf cmbPf oofPf
    oopPf ooePf oocPf pfId pfCode currency cvf valueMeth fut fwd phy equity cmb series opt cId pe o
    k p d sc undC s i scanRate priceScan priceScanDown priceScanPct ra a ccDef cc procMeth wfprMeth
    spotMeth somMeth cmbMeth marginMeth binaryArrays basisRates pfLink pfType adjRate baseR val
    scanTiers intraTiers interTiers somTiers tier tn sPe ePe tbn tne rate spotRate sprd outr dSpread
    spread spreadType chargeMeth tLeg pLeg rpLeg rs superSpreads interSpreads sSpread isTargetReq
    numLegsReq applyFxRisk sPointDef sLeg isTarget isRequired superInterClearSpreads
    interClearSpreads clearSpread homeLeg
"""
_READ = frozenset(_NAMES.split())


def read_spn(
    path: str | Path,
    account_class: str = "core",
    *,
    account_type: str | None = None,
    initial: bool | None = None,
) -> SpanTables:
    """Read a SPAN XML file, or the first .spn or .xml in a zip.

    `account_class` is "core" or "reserve". A file has figures of several rates: `commodities` has
    those of its base rate, with the factors (maintenance) and ratios (initial) of all account types
    that are based on it. Where account types have rates of their own that are not the base's times
    a factor, one table cannot have them all: the combined commodity is refused, by name, and the
    file is read again for one of them with `account_type` ("member", "hedger", "speculator") and
    `initial`; all factors are then that one's. An account type that the file has no rate of has
    the figures of the nearest one; `facts["account_types"]` says which have their own.

    What cannot be used is in `failures`, with its line: a contract is left out, a combined
    commodity refused. Unknown elements are passed by. Raises `ConfigError` for a file that is not
    there or not XML (with the line), one with a document type, one without a clearing organisation
    or without a rate that was asked for.
    """
    with _uncollected():
        text, source = read_text(Path(path))
        tree = scan(text)
        if tree is None:
            tree = parse(text, source)
        return _tables(tree, source, account_class, account_type, initial)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No collection of garbage: hundreds of thousands of elements are made, and all of them stay.

    Every pass over them would find nothing; they took a third of the time of reading.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _tables(
    tree: Tree, source: str, account_class: str, account_type: str | None, initial: bool | None
) -> SpanTables:
    time, place = _house(tree, source)
    house = _small(tree, place)
    rates = rates_of(house, account_class, account_type, initial, source)
    commodities = Commodities(house, rates)
    inter, inter_legs = spreads_between(house, commodities)
    conversions = _conversions(house, commodities.faults)
    families = families_of(tree, place, commodities)
    every = placed(tree, families)
    singles = Singles(tree, families, every)
    if not commodities.grids.found:
        commodities.grids.place(SIXTEEN)
    contracts = read_contracts(tree, families, every, singles, commodities, source)
    ranges, of_ranges = ranges_of(tree, contracts, commodities, source)
    splits, unsplit = splits_of(tree, families, every, singles, contracts)
    rows = joined(list(commodities.by_code.values()))
    rows |= {"commodities": [one.row for one in commodities.by_code.values()]}
    rows |= {"inter": inter, "inter_legs": inter_legs, "splits": splits, "rates": conversions}
    faults = _failures(commodities.faults, source) + contracts.failures + of_ranges
    return SpanTables(
        contracts=_refused(contracts.table, unsplit),
        arrays=contracts.arrays,
        ranges=ranges.cast(SCHEMAS["ranges"]),
        **{name: pl.DataFrame(own, schema=SCHEMAS[name]) for name, own in rows.items()},
        failures=failure_table(faults),
        limit=commodities.limit,
        grids=tuple(commodities.grids.found),
        facts=_facts(tree, time, house, rates, contracts, account_class, initial),
    )


def _house(tree: Tree, source: str) -> tuple[Node, int]:
    """The point in time, less what is in it, and where its clearing organisation begins."""
    root = np.zeros(min(len(tree), 1), np.int64)
    times = tree.under(root, "pointInTime")[0]
    houses = tree.under(times, "clearingOrg")[0]
    if not len(houses) or tree.names[tree.name[0]] != "spanFile":
        raise ConfigError(f"{source}: no clearing organisation in it: is it a SPAN XML file?")
    if len(houses) > 1:
        raise ConfigError(f"{source}: several clearing organisations in it: split the file")
    form = tree.said(tree.first(root, "fileFormat"))[0]
    if form not in ("", "4.00", "4.0", "4"):
        raise ConfigError(f"{source}: file format {form}: only 4.00 is read")
    time = Node("pointInTime", "", 1, [])
    for name in ("date", "isSetl", "setlQualifier", "time", "run"):
        said = tree.said(tree.first(times[:1], name))[0]
        time.children.append(Node(name, said, 1, []))
    said = tree.said(tree.first(root, "created"))[0]
    time.children.append(Node("created", said, 1, []))
    return time, int(houses[0])


def _small(tree: Tree, place: int) -> Node:
    """The clearing organisation less its exchanges."""
    children, ends = tree.children(place)
    line = int(tree.lines(np.array([place]))[0])
    house = Node("clearingOrg", "", line, [])
    for first, last in zip(children.tolist(), ends.tolist(), strict=True):
        if tree.names[tree.name[first]] != "exchange":
            house.children.append(tree.nodes(first, last))
    return house


def _conversions(house: Node, faults: list[Bad]) -> list[Row]:
    """Rates of currencies; the last of equals counts."""
    found: dict[tuple[str, str], float] = {}
    for node in house.all("curConv"):
        try:
            rate = node.number("factor")
            if not rate > 0:
                raise Bad("a rate is not above 0", node.line, "factor", node.word("factor"))
            found[node.word("fromCur"), node.word("toCur")] = rate
        except Bad as bad:
            faults.append(bad)
    return [{"source": a, "target": b, "rate": rate} for (a, b), rate in found.items()]


def _failures(faults: Sequence[Bad], source: str) -> list[Failure]:
    return [
        Failure(bad.reason, source, bad.line, bad.field or None, bad.value or None)
        for bad in faults
    ]


def _refused(table: pl.DataFrame, reasons: Mapping[int, str]) -> pl.DataFrame:
    """The contracts, with why some of them cannot be margined."""
    if not reasons:
        return table
    refused = table["refused"].to_list()
    for row, reason in reasons.items():
        refused[row] = refused[row] or reason
    return table.with_columns(pl.Series("refused", refused, dtype=pl.String))


def _facts(
    tree: Tree,
    time: Node,
    house: Node,
    rates: Rates,
    contracts: Contracts,
    account_class: str,
    initial: bool | None,
) -> dict[str, str]:
    """What is told of the file beside its tables."""
    facts = {
        "format": FORMAT,
        "clearing": house.word("ec"),
        "date": time.word("date"),
        "created": time.word("created"),
        "session": {"1": "settlement", "0": "intraday"}.get(time.word("isSetl"), ""),
        "settlement": time.word("setlQualifier"),
        "account_class": "CORE" if account_class == "core" else "RESRV",
        "account_types": rates.said,
        "net": {"1": "net", "0": "gross"}.get(house.word("isNetMargin"), ""),
        "without_array": str(contracts.without),
        "lines": str(tree.line_count),
        "skipped": str(_skipped(tree)),
    }
    if initial is not None:
        facts["margin"] = "initial" if initial else "maintenance"
    return {name: value for name, value in facts.items() if value}


def _skipped(tree: Tree) -> int:
    """How many elements have names that nothing here reads."""
    count = np.bincount(tree.name, minlength=len(tree.names)).tolist()
    return sum(own for name, own in zip(tree.names, count, strict=True) if name not in _READ)
