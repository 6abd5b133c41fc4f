"""The reader of SPAN XML: limits first, then what each element means."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from span_xml_case import (
    array,
    commodity,
    document,
    family,
    future,
    one_future,
    option,
    points,
    read,
    refused,
    series,
    tag,
    tags,
    told,
)
from vectors_case import folder

from gpu_margin.failures import ConfigError
from gpu_margin.io.span_xml import read_spn
from gpu_margin.span_tables import SCHEMAS, SIXTEEN


def test_an_empty_exchange(tmp_path: Path) -> None:
    for text in (document(), document(families=family("futPf", 1, "F"))):
        found = read(text, tmp_path)
        for name, schema in SCHEMAS.items():
            assert getattr(found, name).is_empty() and getattr(found, name).schema == schema
        assert found.arrays.shape == (0, 16) and found.failures.is_empty()
        assert len(found.grids) == 1 and np.array_equal(found.grids[0].pair, SIXTEEN.pair)


def test_one_contract(tmp_path: Path) -> None:
    found = read(one_future(), tmp_path)
    (row,) = found.contracts.to_dicts()
    assert row == {
        "contract_id": "X:F:FUT:202609",
        "exchange": "X",
        "combined_commodity": "C",
        "product": "F",
        "type": "FUT",
        "future_month": "202609",
        "option_month": "",
        "delta_month": "202609",
        "right": "",
        "strike": None,
        "price": 100.0,
        "multiplier": 50.0,
        "delta": 1.0,
        "scaling": 1.0,
        "premium": False,
        "currency": "USD",
        "decimals": 0,
        "refused": "",
        "row": 1,
    }
    assert found.arrays.tolist() == [[0, 0, -1, -1, 1, 1, -2, -2, 2, 2, -3, -3, 3, 3, -4, 4]]
    assert not np.signbit(found.arrays[0, :2]).any()
    (own,) = found.commodities.to_dicts()
    assert own["exchange"] == "X" and own["currency"] == "USD" and own["refused"] == ""
    assert {own[f"{name}_hedger"] for name in ("factor", "ratio")} == {1.0}
    assert found.facts == {
        "format": "SPAN XML 4.00",
        "clearing": "XC",
        "date": "20260901",
        "created": "202609010900",
        "session": "settlement",
        "account_class": "CORE",
        "net": "net",
        "without_array": "0",
        "lines": "1",
        "skipped": "0",
    }


def test_options_and_what_they_are_on(tmp_path: Path) -> None:
    under = tag("undC", tags(exch="X", pfId=1, cId=1))
    every = [
        family("futPf", 1, "F", future("20260918"), style="FUT"),
        family("oofPf", 2, "O", series(option("C", "6400.00"), month="202608", extra=under)),
        family("oopPf", 3, "P", series(option("Put", "0.50"), month="20260930", extra=under)),
        family("oofPf", 4, "S", series(option("C", "-5"), month="202607"), style="FUTDA"),
        family("phyPf", 5, "N", tag("phy", tags(cId=1, pe="00000000", p=7), array())),
    ]
    found = read(document(commodity("C", 1, 2, 3, 4, 5), families="".join(every)), tmp_path)
    assert found.contracts["contract_id"].to_list() == [
        "X:F:FUT:20260918",
        "X:O:OOF:20260918:202608:C:6400",
        "X:P:OOP:20260930:P:0.5",
        "X:S:OOF:202607:C:-5",
        "X:N:PHY",
    ]
    wanted = ["20260918", "20260918", "20260930", "202607", ""]
    assert found.contracts["delta_month"].to_list() == wanted
    assert found.contracts["premium"].to_list() == [False, True, True, False, False]
    assert found.contracts["price"].to_list() == [100, 2.5, 2.5, 2.5, 7]


def test_a_missing_price_is_no_failure(tmp_path: Path) -> None:
    for price in ("", "<p></p>", "<p> </p>"):
        contract = tag("fut", tags(cId=1, pe="202609"), price, array())
        found = read(one_future(contract=contract), tmp_path)
        assert found.contracts["price"].to_list() == [None] and found.failures.is_empty()


def test_scaling_and_multipliers(tmp_path: Path) -> None:
    """What is nearest counts; the link's scaling multiplies it."""
    own = series(option(extra=tags(sc=4, cvf=3)), option("P"), extra=tags(sc="0.5", cvf=2))
    link = tag("pfLink", tags(exch="X", pfId=2, sc="0.1"))
    families = family("oopPf", 2, "O", own, series(option("P", 7), month="202610"))
    found = read(document(commodity("C", extra=link), families=families), tmp_path)
    assert found.contracts["scaling"].to_list() == pytest.approx([0.4, 0.05, 0.1])
    assert found.contracts["multiplier"].to_list() == [3, 2, 50]


def test_arrays_keep_their_decimals(tmp_path: Path) -> None:
    values = ["1.50 " * 16, "-7 " * 15 + "0.125", "1e-3 " * 16, "0.1234567890123456 " * 16]
    values.append("1e14 " * 15 + "0.00001")
    months = [f"20260{number}" for number in range(1, 6)]
    contracts = [future(month, values=own) for month, own in zip(months, values, strict=True)]
    found = read(one_future(contract="".join(contracts)), tmp_path)
    assert found.contracts["decimals"].to_list() == [2, 3, 3, 14, 0]
    assert found.arrays[:, 0].tolist() == [150, -7_000, 1, 12345678901235, 1e14]
    assert found.arrays[1, 15] == 125 and (found.arrays == np.rint(found.arrays)).all()


def test_months_of_a_commodity_have_its_futures_range(tmp_path: Path) -> None:
    def scan(up: float, down: float | None = None, rate: int = 1) -> str:
        own = tags(r=rate, priceScan=up) + ("" if down is None else tags(priceScanDown=down))
        return tag("scanRate", own)

    under = tag("undC", tags(exch="X", pfId=1, cId=1))
    futures = future(extra=scan(100, 150) + tags(sc="0.5")), future("202612", number=2)
    late = series(option(strike=1), month="202611", extra=scan(60))
    families = family("oofPf", 2, "O", series(option(), extra=under + scan(80)), late)
    families += family("futPf", 1, "F", *futures, style="FUT")
    found = read(document(commodity("C", 1, 2), families=families), tmp_path)
    assert found.ranges.rows() == [("C", "202609", 200, 300), ("C", "202611", 60, 60)]


@pytest.mark.parametrize(
    ("inside", "field"),
    [
        (tags(p="abc"), "p"),
        (tags(p="nan"), "p"),
        (tags(p="inf"), "p"),
        (tags(p="1_0"), "p"),
        (tags(p="1e999"), "p"),
        (tags(p="1,5"), "p"),
        (tags(sc="x"), "sc"),
        (tags(sc="0"), "sc"),
        (tags(sc="-1"), "sc"),
        (tags(cvf="--1"), "cvf"),
        (tags(pe="2026"), "pe"),
        (tags(pe="20x609"), "pe"),
        (tag("ra", tag("a", 1) * 16), "d"),
        (tag("ra", tag("a", 1) * 16, tags(d="0.5.5")), "d"),
        (tag("ra", tag("a", 1) * 15, "<a/>", tags(d=1)), "a"),
        (tag("ra", tag("a", 1) * 15, tag("a", "-"), tags(d=1)), "a"),
        (tag("ra", tag("a", 1) * 15, tags(d=1)), "ra"),
        (tag("ra", tag("a", 1) * 17, tags(d=1)), "ra"),
        (array(rate=2) + array(rate=3), "ra"),
    ],
)
def test_a_bad_figure_drops_its_contract(inside: str, field: str, tmp_path: Path) -> None:
    full = {"cId": tags(cId=2), "pe": tags(pe="202610"), "ra": array()}
    given = "".join(text for name, text in full.items() if f"<{name}>" not in inside)
    text = one_future(contract=future() + "\n" + tag("fut", given, "\n", inside))
    found = read(text, tmp_path)
    assert found.contracts["contract_id"].to_list() == ["X:F:FUT:202609"]
    (failure,) = found.failures.to_dicts()
    assert failure["field"] == field and failure["source"] == "file.spn"
    assert failure["row"] in (2, 3) and refused(found) == ""


@pytest.mark.parametrize(
    ("inside", "field"),
    [(tags(o="C"), "k"), (tags(o="C", k="x"), "k"), (tags(o="X", k=1), "o"), (tags(k=1), "o")],
)
def test_an_option_needs_right_and_strike(inside: str, field: str, tmp_path: Path) -> None:
    own = series(option(), tag("opt", inside, array()))
    text = document(commodity("C", 1), families=family("oopPf", 1, "O", own))
    found = read(text, tmp_path)
    assert len(found.contracts) == 1 and found.failures["field"].to_list() == [field]


def test_contracts_of_one_id_are_refused(tmp_path: Path) -> None:
    found = read(one_future(contract=future() + future(number=2)), tmp_path)
    assert found.contracts["refused"].to_list() == ["several contracts have this id"] * 2
    assert told(found) == [("cId", "X:F:FUT:202609")] * 2


def test_what_belongs_nowhere_is_counted(tmp_path: Path) -> None:
    families = family("futPf", 1, "F", future(), tag("fut", tags(cId=2, pe="202610")))
    families += family("futPf", 2, "G", future()) + family("debtPf", 3, "H", tag("debt", array()))
    text = document(commodity("C", 1), "<news><of>today</of></news>", families=families)
    found = read(text, tmp_path)
    assert len(found.contracts) == 1 and found.failures.is_empty()
    assert found.facts["without_array"] == "2"
    assert found.facts["skipped"] == "4"  # news, of, debtPf, debt


def test_order_of_elements_does_not_matter(tmp_path: Path) -> None:
    families = family("futPf", 1, "F", future(), style="FUT")
    text = one_future()
    exchange = text[text.index("<exchange>") : text.index("</exchange>") + len("</exchange>")]
    moved = text.replace(exchange, "").replace("</clearingOrg>", exchange + "</clearingOrg>")
    assert moved != text and families in moved
    one, other = read(text, tmp_path), read(moved, tmp_path)
    assert one.contracts.equals(other.contracts) and one.commodities.equals(other.commodities)


def test_links_by_code_and_kind(tmp_path: Path) -> None:
    link = tag("pfLink", tags(exch="X", pfCode="M&amp;M", pfType="FUT"))
    families = family("futPf", 9, "M&amp;M", future(), style="FUT")
    found = read(document(commodity("C", extra=link), families=families), tmp_path)
    assert found.contracts["contract_id"].to_list() == ["X:M&M:FUT:202609"]


def test_the_nifty_future(tmp_path: Path) -> None:
    vector = json.loads((folder("span") / "nse_nifty_fut_20260625.json").read_text())
    scan = tag("scanRate", tags(r=1, priceScan=vector["price_scan"], volScan=0.04))
    told = tags(cId=1, pe="20260630", p=f"{vector['price']:.2f}", d="1.00000000", cvf="1.00")
    values = " ".join(f"{value:.2f}" for value in vector["array"])
    contract = tag("fut", told, tags(sc="1.00000"), scan, array(values, "1.00000"))
    families = family("futPf", 491, "NIFTY", contract, style="FUT")
    found = read(document(commodity("NIFTY", 491, currency="INR"), families=families), tmp_path)
    (row,) = found.contracts.to_dicts()
    assert row["price"] == vector["price"] and row["decimals"] == 2
    assert (found.arrays[0] / 100).tolist() == vector["array"]
    assert found.ranges.rows() == [("NIFTY", "20260630", 2234.01, 2234.01)]


def test_other_grids(tmp_path: Path) -> None:
    """Of the clearing organisation and of a commodity; pairs go by numbers of points."""
    whole = points((10, 0, 10), (20, 1, 40), (30, -1, 30), (40, 1, 20))
    own = points((1, 0, 2), (2, "0.0", 1))
    families = family("futPf", 1, "F", future(values="1 -9 -7 10"))
    families += family("futPf", 2, "G", future(values="5 6"), future("202610", values="1 2 3 4"))
    text = document(commodity("C", 1), commodity("D", 2, extra=own), families=families, above=whole)
    found = read(text, tmp_path)
    assert found.arrays.tolist() == [[1, -9, -7, 10], [5, 6, 5, 5]]
    assert found.commodities["grid"].to_list() == [0, 1] and told(found) == [("ra", None)]
    assert [grid.pair.tolist() for grid in found.grids] == [[0, 3, 2, 1], [1, 0]]
    assert [grid.still.tolist() for grid in found.grids] == [
        [True, False, False, False],
        [True, True],
    ]


def test_zips_and_encodings(tmp_path: Path) -> None:
    text = one_future(above=tags(name="Zürich")).replace("\n", "\r\n")
    wanted = read(text, tmp_path)
    declared = '<?xml version="1.0" encoding="{}"?>\r\n'
    for encoding in ("utf-8", "iso-8859-1", "windows-1252", "utf-16", "utf-8-sig"):
        name = encoding.removesuffix("-sig")
        found = read((declared.format(name) + text).encode(encoding), tmp_path)
        assert found.contracts.drop("row").equals(wanted.contracts.drop("row")), encoding
    assert len(read(text.encode("latin-1"), tmp_path).contracts) == 1
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
        archive.writestr("inside/day.SPN", one_future(contract=future() + future("x")))
    found = read_spn(path)
    assert len(found.contracts) == 1 and found.failures["source"].to_list() == ["day.SPN"]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_spn(tmp_path / "nothing.spn")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ConfigError, match=r"no \.spn or \.xml file"):
        read_spn(tmp_path / "a.zip")
    for text, said in (
        ("", "not XML"),
        ("0 CME   20260901", "not XML.*line 1"),
        ("<a/>", "no clearing organisation"),
        (one_future().replace("4.00", "5.00"), "only 4.00"),
        (one_future().replace("spanFile>", "other>"), "no clearing organisation"),
        (b'<?xml version="1.0" encoding="nowhere-1"?><a/>', "unknown encoding"),
        (b'<?xml version="1.0" encoding="utf-8"?><a>\xff</a>', "not XML"),
        (b'<?xml version="1.0" encoding="ascii"?><a>\xff</a>', "not"),
    ):
        with pytest.raises(ConfigError, match=said):
            read(text, tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        "<!DOCTYPE spanFile>",
        '<!DOCTYPE spanFile [<!ENTITY a "b">]>',
        '<!DOCTYPE spanFile SYSTEM "file:///etc/passwd">',
    ],
)
def test_a_document_type_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DOCTYPE.*line 2"):
        read(f'<?xml version="1.0"?>\n{kind}\n{one_future()}', tmp_path)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    text = one_future().replace("><", ">\n<")
    for place in range(1, len(text) - 1, 97):
        with pytest.raises(ConfigError, match=r"not XML: .* \(line \d+\)"):
            read(text[:place], tmp_path)


def test_the_line_of_what_is_no_xml(tmp_path: Path) -> None:
    text = one_future().replace("</fut>", "\n\n</futt>")
    with pytest.raises(ConfigError, match=r"mismatched tag \(line 3\)"):
        read(text, tmp_path)


def test_the_composite_delta_is_the_arrays(tmp_path: Path) -> None:
    own = tag("ra", tag("a", 1) * 16)
    plain = tag("fut", tags(cId=2, pe="202610", d="0.25"), own)
    found = read(one_future(contract=future(extra=tags(d="0.5")) + plain), tmp_path)
    assert found.contracts["delta"].to_list() == [1, 0.25]


def test_the_first_bad_value_of_an_array_is_named(tmp_path: Path) -> None:
    wrong = future(values="1 y " + "z " * 14)
    assert told(read(one_future(contract=wrong), tmp_path)) == [("a", "y")]


def test_underlyings_of_another_exchange(tmp_path: Path) -> None:
    other = tag("exchange", tags(exch="Y"), family("futPf", 1, "F", future("202703")))
    under = tag("undC", tags(exch="Y", pfId=1, cId=1))
    families = family("futPf", 1, "F", future("202609"))
    families += family("oofPf", 2, "O", series(option(), month="202608", extra=under))
    found = read(document(commodity("C", 2), other, families=families), tmp_path)
    assert found.contracts["delta_month"].to_list() == ["202703"]
