"""Synthetic exchanges of the benchmarks as both formats, and as the slow readers read them."""

from __future__ import annotations

import io
import sys
from functools import cache
from pathlib import Path
from typing import Any

from span_oracle_pa2 import parse_pa2
from span_oracle_xml import parse_spn, rate_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import span_contracts
import span_pa2_text
from span_contracts import Exchange
from span_xml_contracts import Writer

LARGE = (4_000, 40, 120, 5)
SMALL = (500, 8, 30, 4)
Dict = dict[str, Any]


@cache
def exchange(contracts: int, commodities: int, spreads: int, seed: int) -> Exchange:
    return span_contracts.draw(contracts, commodities, spreads, seed)


@cache
def pa2(*size: int) -> str:
    out = io.BytesIO()
    span_pa2_text.write(exchange(*size), out)
    return out.getvalue().decode("ascii")


@cache
def xml(*size: int) -> str:
    out = io.BytesIO()
    Writer(exchange(*size)).write(out)
    return out.getvalue().decode("ascii")


@cache
def both(*size: int) -> tuple[Dict, Dict]:
    """What the slow readers read."""
    return parse_pa2(pa2(*size)), parse_spn(xml(*size), rate_for(xml(*size), "hedger", False))


def known(name: str) -> str:
    """A contract's id; an option on the thing itself has no month of a future."""
    parts = name.split(":")
    return ":".join(parts[:3] + parts[4:] if parts[2] == "OOP" and len(parts) > 6 else parts)
