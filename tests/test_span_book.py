"""Synthetic exchanges are well-formed, and the same in both formats."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from span_book_case import LARGE, SMALL, both, exchange, known, pa2, xml
from span_oracle import margin

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import span_book
import span_contracts
import span_pa2_text
import span_plain
import span_positions
from span_quotes import Quote
from span_terms import Commodity

Dict = dict[str, Any]

# ---------------------------------------------------------------------------------- formats


def test_both_formats_have_the_same_contracts() -> None:
    written, tagged = both(*LARGE)
    others = {known(name): one for name, one in tagged["contracts"].items()}
    assert len(written["contracts"]) == 4_000 and set(written["contracts"]) == set(others)
    told = (
        *("commodity", "product", "type", "period", "option", "right", "strike", "price"),
        *("multiplier", "delta", "scaling", "array", "currency", "premium"),
    )
    for name, one in written["contracts"].items():
        assert [one[what] for what in told] == [others[name][what] for what in told], name
    assert {known(":".join(key)) for key in written["combinations"]} == {
        ":".join(key) for key in tagged["combinations"]
    }


def test_both_formats_have_the_same_commodities() -> None:
    written, tagged = both(*LARGE)
    assert set(written["commodities"]) == set(tagged["commodities"])
    for code, one in written["commodities"].items():
        other, size = tagged["commodities"][code], 10 ** one["exponent"]
        for what in ("currency", "limit", "wfpr", "som_method", "split"):
            assert one[what] == other[what], (code, what)
        for kind in ("scan", "inter", "intra"):
            assert bounds(one[kind]) == bounds(other[kind]), (code, kind)
        assert one["factors"]["hedger"] == other["factors"]["hedger"]
        assert {month: (r["up"], r["down"]) for month, r in one["psr"].items()} == {
            month: (r["up"], r["down"]) for month, r in other["psr"].items()
        }
        assert [(c["rate"] * size, c["legs"]) for c in one["charges"]] == [
            (c["rate"], c["legs"]) for c in other["charges"]
        ]
        assert {
            month: tuple(rate * size for rate in r) for month, r in one["delivery"].items()
        } == (other["delivery"])
        minima = one["som_tiers"] or [{"rate": one["som"]}]
        assert [t["rate"] * size for t in minima] == [t["rate"] for t in other["som_tiers"]]


def bounds(tiers: list[Dict]) -> list[tuple[Any, ...]]:
    return [(one["number"], one["start"], one["end"]) for one in tiers]


def test_both_formats_have_the_same_spreads() -> None:
    """But for method 02, which XML has not: there it is 01."""
    written, tagged = both(*LARGE)
    assert len(written["spreads"]) == len(tagged["spreads"]) == 120
    for one, other in zip(written["spreads"], tagged["spreads"], strict=True):
        method = "01" if one["method"] == "02" else one["method"]
        own = (one["priority"], method, one["flat"], one["super"], one["least"])
        assert own == tuple(other[k] for k in ("priority", "method", "flat", "super", "least"))
        told = ("required" if method == "04" else "side", "cc", "ratio", "tier", "rate", "target")
        assert [[leg[what] for what in told] for leg in one["legs"]] == [
            [leg[what] for what in told] for leg in other["legs"]
        ]


def test_a_file_has_all_that_makes_files_hard() -> None:
    made, lines = exchange(*LARGE), pa2(*LARGE).splitlines()
    count = Counter(line[:2] for line in lines)
    kinds = ["0", "1", "2", "3", "4", "5", "6", "B", "C", "E", "P", "S", "T", "V", "X", "Z"]
    assert {f"{kind} " for kind in kinds} | {"81", "82", "83", "84"} <= set(count)
    assert count["81"] + count["83"] == 4_000 and min(count["81"], count["83"]) > 200
    assert {line[8:10] for line in lines if line[:2] == "S "} >= {"01", "10", "20", "21"}
    assert {line[88:90] for line in lines if line[:2] == "6 "} == {"01", "02", "04", "20"}
    assert {len(one.legs) for one in made.spreads} == {2, 3}
    assert any(line[109] == "S" for line in lines if line[:2] == "6 ")
    assert any(line[100] == "F" for line in lines if line[:2] == "6 ")
    assert {line[39] for line in lines if line[:2] == "P "} >= {" ", "C"}
    firsts = [line for line in lines if line[:2] == "81"]
    assert any(line[44:46].strip() for line in firsts)  # days of options
    assert Counter(line[122] for line in firsts)["Y"] > 5  # high precision
    missing = [line for line in lines if line[:2] == "82" and line[110:117] == "9999999"]
    assert 0.02 < len(missing) / count["81"] < 0.06
    assert any(one.exponent for one in made.commodities)
    assert {one.currency for one in made.commodities} > {"USD"}
    for one in made.commodities:
        kinds = {type(charge.legs[0][0]) for charge in one.charges}
        assert kinds == {int, str}  # spreads of tiers and of months


def test_chains_join_neighbours() -> None:
    made = exchange(*LARGE)
    joined = {tuple(leg.commodity for leg in one.legs) for one in made.spreads}
    assert {(place, place + 1) for place in range(39)} <= joined


def test_arrays_are_those_of_options() -> None:
    """What is lost is bounded by the move; a call loses when the price falls."""
    made = exchange(*LARGE)
    (found,) = made.chunks()
    terms = {name: column[made.series_of] for name, column in made.terms.items()}
    move = (terms["money"] * terms["finer"])[:, None]
    right = made.right
    call, put = right == span_contracts.CALL, right == span_contracts.PUT
    # With volatility down, a call has nothing but losses when the price falls.
    assert (found.arrays[call, 13] >= 0).all() and (found.arrays[put, 11] >= 0).all()
    assert (np.abs(found.arrays[:, :14]) <= 1.6 * move + 1).mean() > 0.99
    assert (found.delta[call] >= 0).all() and (found.delta[put] <= 0).all()
    assert np.abs(found.delta).max() <= 10_000
    future = right == span_contracts.FUTURE
    assert (found.arrays[future, 10] == -found.arrays[future, 12]).all()


@pytest.mark.parametrize(
    ("quote", "ticks", "digits", "decimals"),
    [
        (Quote(2), 251_100, 251_100, (251_100, 2)),
        (Quote(-2), 17, 17, (1_700, 0)),
        (Quote(3, "0"), 375 * 8 + 6, 3_757, (375_750, 5)),
        (Quote(3, "C"), 122 * 256 + 6 * 8, 122_060, (12_218_750_000, 8)),
        (Quote(2, "C"), 122 * 32 + 31, 12_231, (12_296_875, 5)),
        (Quote(3, "K"), 106 * 512 + 63 * 8 + 7, 106_638, (106_998_046_875, 9)),
    ],
)
def test_quotes(quote: Quote, ticks: int, digits: int, decimals: tuple[int, int]) -> None:
    given = np.array([ticks])
    assert quote.digits(given)[0] == digits
    assert (quote.decimals(given)[0], quote.places) == decimals
    assert quote.tick * ticks == pytest.approx(decimals[0] / 10 ** decimals[1])


def test_the_seed_makes_the_exchange() -> None:
    again = io.BytesIO()
    span_pa2_text.write(span_contracts.draw(*SMALL), again)
    assert again.getvalue().decode() == pa2(*SMALL)
    assert pa2(*SMALL[:3], 5) != pa2(*SMALL)


def test_too_few_contracts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"8 commodities need .* contracts at least"):
        span_contracts.draw(50, 8, 10)
    with pytest.raises(ValueError, match="does not fit into 5 digits"):
        span_pa2_text.digits(np.array([100_000]), 5)
    with pytest.raises(ValueError, match="-1 does not fit"):
        span_pa2_text.fixed(-1, 4)


# -------------------------------------------------------------------------------- positions


def test_positions_are_half_options_of_neighbours() -> None:
    made = exchange(*LARGE)
    row, quantity = span_positions.draw(made, 300, 10)
    assert row.shape == quantity.shape == (300, 10) and quantity.all()
    assert ((made.right[row] != span_contracts.FUTURE).sum(axis=1) == 5).all()
    assert all(len(set(one)) == 10 for one in row.tolist())
    held = made.commodity[row]
    assert (np.ptp(held, axis=1) <= 2).all()
    roles = {made.series[series].role for series in made.series_of[row].ravel().tolist()}
    assert roles == {"future", "combination", "option", "weekly"}
    near, far = quantity[:, 0], quantity[:, 1]
    assert (made.commodity[row[:, 0]] == made.commodity[row[:, 1]]).all()
    assert (near * far < 0).all()


def test_positions_are_in_contracts_of_the_file_and_form_spreads() -> None:
    written, _ = both(*LARGE)
    table = span_positions.table(exchange(*LARGE), 60, 10)
    assert table["account_id"].n_unique() == 60 and len(table) == 600
    seen: Counter[str] = Counter()
    for held in span_plain.accounts_of(table):
        priced = [written["contracts"][name] for name, _ in held]
        assert all(one["price"] is not None for one in priced if one["right"])
        for one in margin(written, held)["rows"].values():
            seen.update(what for what, value in one.items() if value)
    for step in ("intra_spread_charge", "inter_spread_credit", "short_option_minimum"):
        assert seen[step] > 60, seen
    assert seen["delivery_charge"] > 10


# ---------------------------------------------------------------------------------- scripts


def test_the_generator_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--contracts=500", "--commodities=8", "--spreads=30", "--seed=4"]
    more = ["--accounts=20", "--legs=6"]
    first, second, third = (tmp_path / name for name in ("a.pa2", "a.spn", "b.pa2.zip"))
    fourth, text, table = (tmp_path / name for name in ("c.zip", "p.csv", "p.parquet"))
    assert span_book.main([*size, f"--out={first}", *more, f"--positions={text}"]) == 0
    assert span_book.main([*size, f"--out={second}", *more, f"--positions={table}"]) == 0
    assert span_book.main([*size, f"--out={third}"]) == 0
    assert span_book.main([*size, f"--out={fourth}", "--format=xml"]) == 0
    assert first.read_text() == pa2(*SMALL) and second.read_text() == xml(*SMALL)
    with zipfile.ZipFile(third) as packed:
        assert packed.namelist() == ["b.pa2"] and packed.read("b.pa2").decode() == pa2(*SMALL)
    with zipfile.ZipFile(fourth) as packed:
        assert packed.namelist() == ["c.spn"]
    kinds = {"account_id": pl.String, "contract_id": pl.String, "quantity": pl.Float64}
    assert pl.read_csv(text, schema=kinds).equals(pl.read_parquet(table))
    assert "500 of 500 contracts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to write"),
        (["--out=a", "--spreads=10000"], "below 10,000"),
        (["--positions=a.txt"], "is neither .parquet nor .csv"),
        (["--out=a", "--legs=0"], "at least 1"),
    ],
)
def test_wrong_arguments(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        span_book.main(words)
    assert said in capsys.readouterr().err


def test_an_exchange_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert span_book.main(["--contracts=50", "--commodities=8", f"--out={tmp_path / 'a.pa2'}"]) == 2
    assert "8 commodities need" in capsys.readouterr().err
    assert not (tmp_path / "a.pa2").exists()


def test_the_generator_has_help() -> None:
    words = [sys.executable, str(Path(span_book.__file__)), "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "--contracts" in shown and "byte for byte" in shown


def test_commodities_hide_nothing() -> None:
    """What a commodity's roles are called and what type they have go together."""
    for one in exchange(*LARGE).commodities:
        assert isinstance(one, Commodity) and one.products.keys() == one.types.keys()
