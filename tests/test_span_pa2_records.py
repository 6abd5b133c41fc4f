"""Real lines of PA2, and what rules of months, tiers, spreads and combinations say."""

from __future__ import annotations

import json

import pytest
from span_oracle_pa2 import parse_pa2
from span_pa2_case import (
    BETWEEN,
    CALL,
    FUTURE,
    HEAD,
    HOME,
    SCAN,
    WHOLE,
    WITHIN,
    at,
    commodities_agree,
    first,
    read,
    rows,
    second,
    spreads_agree,
)
from span_random_pa2 import put
from vectors_case import cases, vectors

from gpu_margin.io.span_pa2 import read_pa2

DATA = vectors().parent / "data" / "span"
VECTORS = vectors() / "span"
REAL = ["cme_pa2_real_lines_20250620.txt", "cme_pa2_real_lines_20190102.txt"]
FOUND = [name for name in REAL if (DATA / name).is_file() and VECTORS.is_dir()]


@pytest.mark.parametrize("name", cases("span", FOUND[:1]))
def test_real_lines(name):
    """Each as the slow reader has it; what the file lacks for its few contracts is said."""
    found = read_pa2(DATA / name)
    text = (DATA / name).read_text(encoding="latin-1")
    keep = [line for line in text.splitlines() if line[:2] not in ("81", "82")]
    oracle = parse_pa2("\n".join(keep))
    undefined = {"06", "YM", "07", "17"}
    said = found.failures.select("field", "value").rows()
    assert {value for field, value in said if field == "combined commodity"} == undefined
    assert [field for field, _ in said if field != "combined commodity"] == ["contract"] * 2
    defined = found.commodities["combined_commodity"].is_in(undefined).not_()
    assert found.commodities.filter(defined)["refused"].to_list() == [""]
    plain = found.commodities.with_columns(refused=found.commodities["refused"].str.slice(0, 0))
    commodities_agree(type(found)(**{**vars(found), "commodities": plain}), oracle)
    spreads_agree(found, oracle)
    assert found.facts["skipped"] == "2" and found.facts["groups"] == "CME"
    gas = rows(found.inter_legs)
    assert [(one["combined_commodity"], one["rate"], one["target"]) for one in gas] == [
        ("NY-HH", 0.98, False), ("NY-HP", 0.98, False), ("NY-NG", 0.98, True),
    ]  # fmt: skip


@pytest.mark.parametrize("name", cases("span", FOUND[1:]))
def test_real_contracts(tmp_path, name):
    lines = (DATA / name).read_text(encoding="latin-1").splitlines()
    homes = ["2 CME SP    0USD$PN   ES        FUT", "2 CBT 21    0USD$PN   21        FUT",
             "2 CBT C     0USD$PN   C         FUT"]  # fmt: skip
    firsts = [f"81{line[2:54]}{'00000+' * 9}{'0' * 14}N" for line in lines if line[:5] == "82CBT"]
    found = read(tmp_path, *lines, *homes, *firsts)
    assert found.failures.is_empty()
    told = {one["contract_id"]: one for one in rows(found.contracts)}
    mini = told["CME:ES:FUT:201903"]
    assert (mini["price"], mini["multiplier"], mini["scaling"]) == (2_511, 50, 0.2)
    place = found.contracts["contract_id"].to_list().index("CME:ES:FUT:201903")
    assert found.arrays[place].tolist() == [
        0, 0, -2000, -2000, 2000, 2000, -4000, -4000, 4000, 4000, -6000, -6000, 6000, 6000,
        -5940, 5940,
    ]  # fmt: skip
    assert told["CBT:21:FUT:201903"]["price"] == 122.1875
    assert told["CBT:C:FUT:201903"]["price"] == 3.7575
    assert found.ranges.rows() == [("SP", "201903", 30_000.0, 30_000.0)]


def parsed() -> list[tuple[str, dict[str, str]]]:
    path = VECTORS / "pa2_real_lines_parsed.json"
    every = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [(one["line"], one["fields"]) for one in every if one["line"][:2] in ("81", "82")]


@pytest.mark.parametrize("case", cases("span", parsed()))
def test_arrays_of_real_lines(tmp_path, case):
    """Values, delta and price in the columns where the vectors have them."""
    line, fields = case
    told = {name.split(" ", 1)[1]: value for name, value in fields.items()}
    values = [
        float(value) * (-1 if told[f'Sign for {name.split(":")[0]} ("+" or "-")'] == "-" else 1)
        for name, value in told.items()
        if name.startswith("Array Value")
    ]
    other = {"81": "82", "82": "81"}[line[:2]]
    rest = "00000+" * 7 + "05000+" + "0" * 15 + "++" if other == "82" else "00000+" * 9 + "0" * 14
    exchange, product, kind = line[2:5], line[5:15], line[25:28]
    family = f"P {exchange}{product}{kind}{'':15}002002  00000010000000"
    home = f"2 {exchange} CC    0USD PN   {product}{kind}"
    found = read(tmp_path, HEAD, family, home, line, f"{other}{line[2:54]}{rest}")
    assert found.failures.is_empty()
    assert found.arrays[0].tolist()[:9] == (values if other == "82" else [0.0] * 9)
    if other == "81":
        assert found.arrays[0].tolist()[9:] == values
        assert found.contracts["delta"][0] == float(told["SPAN Composite Delta"]) / 10_000
        assert found.contracts["price"][0] == float(told["Settlement Price"]) / 100
        assert found.contracts["row"][0] == 5


def month(product: str, kind: str, future: str, option: str = "", more: str = "00500") -> str:
    return put((1, f"B CME{product}"), (16, kind + future), (28, option), (53, more))


CAPPED = put((1, "S CC"), (9, "0100"), (83, "2"))


def test_price_scan_ranges(tmp_path):
    """Of a month the futures' range counts, else the first by product, type and option month."""
    late = CALL.replace("202611", "202612")
    base = [*WHOLE, CAPPED, first(late), second(late)]
    months = [
        month("O", "OOF", "202612", "202612", "00300"), month("O", "OOF", "202612", "202611"),
        at(month("F", "FUT", "202609"), (86, "002000"), (166, "01-")),
    ]  # fmt: skip
    found = read(tmp_path, *base, *months)
    assert sorted(found.ranges.rows()) == [
        ("CC", "202609", 250.0, 250.0), ("CC", "202612", 500.0, 500.0),
    ]  # fmt: skip
    assert dict(found.contracts.select("contract_id", "scaling").rows())["CME:F:FUT:202609"] == 0.2
    future = FUTURE.replace("202609", "202612")
    more = [first(future), second(future), month("F", "FUT", "202612", more="00700")]
    found = read(tmp_path, *base, *months, *more)
    assert ("CC", "202612", 700.0, 700.0) in found.ranges.rows()
    again = month("O", "OOF", "202612", "202611", "00900")
    assert ("CC", "202612", 900.0, 900.0) in read(tmp_path, *base, *months, again).ranges.rows()


def test_months_of_options_without_their_own(tmp_path):
    """An option month without a B record has that of its futures month."""
    found = read(tmp_path, *WHOLE, at(month("O", "OOF", "202612"), (86, "005000")))
    assert found.contracts["scaling"].to_list() == [1.0, 0.5]
    assert found.ranges.rows() == [("CC", "202612", 1000.0, 1000.0)]


def test_ranges_in_percent(tmp_path):
    """Of the price of the first contract that has one, times its multiplier; no exponent."""
    percent = at(month("O", "OOF", "202612", "202611", "01000"), (165, "P"), (166, "02-"))
    put_option = CALL.replace("OOFC", "OOFP")
    more = [first(put_option), second(put_option, price="0020000", signs="-+")]
    home = HOME[:12] + "1" + HOME[13:]
    base = [*WHOLE[:3], home, *WHOLE[4:-1], second(CALL, price="9999999")]
    assert read(tmp_path, *base, percent).ranges.is_empty()
    found = read(tmp_path, *base, *more, percent)
    assert found.ranges.rows() == [("CC", "202612", 1000.0, 1000.0)]


def test_many_tiers(tmp_path):
    """More than five scanning tiers, and more than four within, come in more records."""
    spans = [(number, f"2026{number:02d}") for number in range(1, 10)]
    lines = []
    for name, method, size, column, day in (("S", "10", 5, 13, 84), ("3", "10", 4, 11, 81)):
        for start in range(0, len(spans), size):
            fields = [(1, f"{name} CC"), (9, method)]
            for place, (number, one) in enumerate(spans[start : start + size]):
                fields += [(column + 14 * place, f"{number:02d}{one}{one}")]
                fields += [(day + 4 * place, f"W{place}00")]
            lines.append(put(*fields))
    found = read(tmp_path, *WHOLE, *lines)
    assert found.failures.is_empty()
    for kind, size in (("scan", 5), ("intra", 4)):
        assert found.tiers.filter(kind=kind).select("number", "start", "end").rows() == [
            (number, f"{one}W{(number - 1) % size}", one) for number, one in spans
        ]


def test_tiers_of_each_method(tmp_path):
    kinds = {"01": [], "10": ["scan"], "20": ["inter"], "21": ["scan", "inter"], "22": ["scan"],
             "23": ["inter"]}  # fmt: skip
    for method, kind in kinds.items():
        found = read(tmp_path, *WHOLE, at(SCAN, (9, method)))
        assert found.tiers["kind"].to_list() == [*kind, "minimum"]
        assert found.tiers["rate"].to_list() == [None] * len(kind) + [50.0]
    found = read(tmp_path, *WHOLE, put((1, "S CC"), (9, "02")))
    assert found.commodities.select("scan_by_month", "inter_by_month").rows() == [(True, True)]


def test_spreads_count_only_where_the_method_says_so(tmp_path):
    series = put((1, "E CC"), (9, "00001"), (14, "0000250"), (21, "2609   010000A2612W1 010000B"))
    assert read(tmp_path, *WHOLE, series).intra.is_empty()
    assert read(tmp_path, *WHOLE, at(WITHIN, (9, "01")), series).intra.is_empty()
    found = read(tmp_path, *WHOLE, WITHIN, series)
    assert found.intra.rows() == [("CC", 250.0, False, "series 1")]
    assert found.intra_legs["month"].to_list() == ["202609", "202612W1"]


def test_order_of_spreads(tmp_path):
    """By priority, equals as in the file; within a commodity series come before tiers."""
    tier = put((1, "C CC"), (9, "100102"), (15, "0000400"), (22, "010101A020201B"))
    series = put((1, "E CC"), (9, "00009"), (14, "0000250"), (21, "2609   010000A2612   010000B"))
    lines = [tier, series, at(series, (9, "00002"), (14, "0000007")), at(tier, (15, "0000001"))]
    six = [at(BETWEEN, (6, f"{priority:04d}"), (10, f"{rate:07d}")) for priority, rate in
           ((5, 100), (2, 200), (5, 300))]  # fmt: skip
    found = read(tmp_path, *WHOLE, WITHIN, *lines, *six)
    assert found.intra["rate"].to_list() == [7, 250, 400, 1]
    assert found.inter["name"].to_list() == ["ALL 2", "ALL 5", "ALL 5"]
    assert found.inter_legs["rate"].to_list()[::2] == [0.0002, 0.0001, 0.0003]


COMBINATION = "CMEK         F         CMB 202609            0000000"
COMBINED = [
    *WHOLE, "X MK", put((1, "P CMEK"), (16, "CMB"), (34, "002000"), (42, "00000010000000")),
    "2 CME CC    0USD$PN   K         CMB", first(COMBINATION), second(COMBINATION),
    put((1, "Z CMEK"), (21, "202609"), (36, "001A000F"), (53, "FUT202609"), (64, "6957")),
]  # fmt: skip


def test_combinations(tmp_path):
    found = read(tmp_path, *COMBINED)
    assert found.failures.is_empty()
    assert found.splits.rows() == [(2, 0, 0.6957, True)]
    delta = read(tmp_path, *[line.replace("X MK", "X DK") for line in COMBINED])
    assert delta.splits.rows() == [(2, 0, 0.6957, False)]
    for plain in ("X  K", "X NK", "V"):
        assert read(tmp_path, *[line.replace("X MK", plain) for line in COMBINED]).splits.is_empty()


def test_options_on_combinations(tmp_path):
    """Beneath an option is what Y says, else what its lines say; its delta moves."""
    on = put((1, "Y K"), (13, "O"))
    lines = [line.replace("OOFC202612", "OOFC202609") for line in COMBINED]
    found = read(tmp_path, *lines, on)
    assert found.splits.rows() == [(1, 0, 0.6957, False), (2, 0, 0.6957, True)]
    beneath = [line.replace("CMEO         F ", "CMEO         K ") for line in lines]
    assert read(tmp_path, *beneath).splits.rows() == found.splits.rows()
    assert read(tmp_path, *lines).splits.rows() == found.splits.rows()[1:]


@pytest.mark.parametrize(
    ("old", "new", "reason", "field"),
    [
        ("FUT202609  6957", "FUT202610  6957", "CME:F:FUT:202610 is not in the file", None),
        ("X MK", "X QK", "its X record", "combination margining method"),
        ("001A000F", "001C000F", "its Z record", "leg relationship"),
        ("001A000F", "001Ax00F", "its Z record", "leg ratio"),
        ("6957", "0000", "its Z record", "leg ratio"),
        ("  6957", "x 6957", "its Z record", None),
    ],
)
def test_combinations_that_cannot_be_split(tmp_path, old, new, reason, field):
    lines = [line.replace(old, new) for line in COMBINED]
    if field is None and new[0] == "x":
        lines = [line.replace("FUT2026096957", "FUT20x609") for line in COMBINED]
        lines[-1] = COMBINED[-1].replace("FUT202609", "FUT20x609")
        field = "leg month"
    found = read(tmp_path, *lines)
    assert found.failures["field"].to_list() == ([field] if field else [])
    assert reason in found.contracts["refused"][2] and found.splits.is_empty()
    assert found.contracts["refused"].to_list()[:2] == ["", ""]


def test_legs_that_are_refused(tmp_path):
    bad = put((1, "B CMEF"), (16, "FUT202609"), (53, "0050x"))
    found = read(tmp_path, *COMBINED, bad)
    assert [bool(one) for one in found.contracts["refused"]] == [True, False, True]
    assert "a leg of it is refused" in found.contracts["refused"][2]
    home = [line.replace("2 CME CC    0USD$PN   K", "2 CME CC    0USD$PNQ  K") for line in COMBINED]
    lines = [line for line in home if line != "X MK"]
    assert "method Q is not done" in read(tmp_path, *lines).contracts["refused"][2]


LONG = put(
    (1, "6 ALL"), (6, "0003"), (10, "0500000"), (89, "20"),
    *[(17 + 18 * place, f"CMEN{code:6}0010000{side}")
      for place, (code, side) in enumerate((("CC", "A"), ("DD", "B"), ("EE", "A"), ("FF", "B")))],
)  # fmt: skip
REST = at(BETWEEN, (6, "0003"), (89, "20"), (21, "GG    "), (39, "HH    "), (10, "0999999"))


def test_spreads_of_more_than_four_legs(tmp_path):
    """They stand on the records right behind, at the rate of the first."""
    found = read(tmp_path, *WHOLE, LONG, REST)
    assert found.inter["name"].to_list() == ["ALL 3"]
    assert found.inter_legs["combined_commodity"].to_list() == ["CC", "DD", "EE", "FF", "GG", "HH"]
    assert found.inter_legs["rate"].unique().to_list() == [0.5]
    for other in (at(REST, (6, "0004")), at(REST, (89, "01")), at(REST, (3, "CME")),
                  at(REST, (110, "S"))):  # fmt: skip
        assert len(read(tmp_path, *WHOLE, LONG, other).inter) == 2
    assert len(read(tmp_path, *WHOLE, REST, REST).inter) == 2


def test_a_fault_in_one_of_the_records_of_a_spread(tmp_path):
    """It is said of that line, and concerns the legs of all."""
    for lines, row in (((at(LONG, (27, "x")), REST), 9), ((LONG, at(REST, (27, "x"))), 10)):
        found = read(tmp_path, *WHOLE, *lines)
        said = found.failures.filter(field="delta per spread ratio")
        assert said.select("row", "value").rows() == [(row, "x010000")]
        assert found.inter.is_empty()
        told = dict(found.commodities.select("combined_commodity", "refused").rows())
        assert set(told) == {"CC", "DD", "EE", "FF", "GG", "HH"}
        assert all(f"line {row} is malformed" in reason for reason in told.values())


def test_futures_come_before_options_of_any_name(tmp_path):
    option = CALL.replace("CMEO ", "CMEA ").replace("202612", "202609")
    home = "2 CME CC    0USD$PN   A         OOF"
    family = put((1, "P CMEA"), (16, "OOF"), (34, "002000"), (42, "00000010000000"))
    months = [month("A", "OOF", "202609", "202611", "00300"), month("F", "FUT", "202609")]
    found = read(tmp_path, *WHOLE, home, family, first(option), second(option), *months)
    assert found.failures.is_empty()
    assert found.ranges.rows() == [("CC", "202609", 500.0, 500.0)]


def test_noughts_and_blanks_name_the_same_month(tmp_path):
    """One half may have 00 for a day or a month of noughts where the other has blanks."""
    noughts = FUTURE.replace("202609            ", "20260900 00000000 ")
    found = read(tmp_path, *WHOLE[:4], first(noughts), second(FUTURE))
    assert found.failures.is_empty()
    assert found.contracts["contract_id"].to_list() == ["CME:F:FUT:202609"]


def test_shares_of_spreads_by_scanning_that_are_called_flat(tmp_path):
    flat = at(BETWEEN, (89, "04"), (91, "CMENEE"), (101, "F"), (10, "0009800"))
    found = read(tmp_path, *WHOLE, flat)
    assert found.inter_legs["rate"].to_list() == [0.98, 0.98, 0.98]
