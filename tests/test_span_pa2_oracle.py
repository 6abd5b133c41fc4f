"""PA2 as the fast reader and as the slow one read it: every figure, on vectors and random files."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from span_oracle_pa2 import parse_pa2
from span_oracle_prices import decoded
from span_pa2_case import METHODS, agrees, read
from span_random import model
from span_random_pa2 import as_pa2
from vectors_case import cases, vectors

from gpu_margin.io.span_pa2 import read_pa2

SEEDS = range(40)
DATA = vectors().parent / "data" / "span"
VECTORS = vectors() / "span"
FILES = [DATA / "span_synthetic_riskkit.pa2"]


@cache
def drawn(seed: int) -> str:
    return as_pa2(model(seed, xml=seed % 2 == 0))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_files(tmp_path, seed):
    text = drawn(seed)
    agrees(read(tmp_path, text), parse_pa2(text))


def test_random_files_have_everything():
    """What the files above are drawn from, so that no kind of record goes unread."""
    told = [parse_pa2(drawn(seed)) for seed in SEEDS]
    spreads = [one for each in told for one in each["spreads"]]
    assert {one["method"] for one in spreads} == set(METHODS.values())
    assert {one["flat"] for one in spreads} == {one["super"] for one in spreads} == {True, False}
    homes = [one for each in told for one in each["commodities"].values()]
    assert {one["wfpr"] for one in homes} == {1, 2, 3}
    assert {"", "S", "D", "M"} == {one["split"] for one in homes}
    assert any(one["scan"] == "each" for one in homes)
    assert all(any(one[name] for one in homes) for name in ("som_tiers", "delivery", "exponent"))


@pytest.mark.parametrize("path", cases("span", FILES if VECTORS.is_dir() else []), ids=str)
def test_synthetic_file(path):
    agrees(read_pa2(path), parse_pa2(path.read_text(encoding="latin-1")))


def price_cases() -> list[Any]:
    path = VECTORS / "cme_price_decode.json"
    return json.loads(path.read_text())["cases"] if path.is_file() else []


@pytest.mark.parametrize("case", cases("span", price_cases()), ids=str)
def test_prices(tmp_path, case):
    """Vectors of prices, as a price and as a strike."""
    raw, locator, alignment, expected = case
    head = "0 X     20260101SC                 U2YN"
    place = f"{locator:03d}{locator:03d}{alignment}{alignment}"
    family = f"P X  O         OOF{'':15}{place}00000010000000"
    home = "2 X   CC    0USD PN   O         OOF"
    who = f"X  O         F         OOFC202601   202601   {raw}"
    first = f"81{who[:-7]}0{raw[1:]}" + "00000+" * 9 + "0" * 14 + "N"
    rest = f"82{who[:-7]}0{raw[1:]}" + "00000+" * 7 + "05000+" + "0" * 8 + raw + "++"
    found = read(tmp_path, "\n".join([head, family, home, first, rest]))
    assert found.failures.is_empty()
    assert found.contracts["price"].to_list() == [expected]
    assert found.contracts["strike"].to_list() == [expected]
    assert decoded(raw, locator, alignment) == Fraction(expected).limit_denominator(10**8)


def test_arrays_are_whole_numbers(tmp_path):
    for seed in SEEDS[:10]:
        arrays = read(tmp_path, drawn(seed)).arrays
        assert arrays.dtype == np.float64 and (arrays == np.rint(arrays)).all()
