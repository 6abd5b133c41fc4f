"""The readers of the slow SPAN: real lines, both formats of one exchange, figures that scale."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from span_oracle import margin
from span_oracle_pa2 import parse_pa2
from span_oracle_xml import parse_spn, rate_for
from span_random import model, portfolio
from span_random_pa2 import as_pa2, put
from span_random_xml import as_xml
from span_vectors_case import data, vector


def test_real_lines():
    """The real lines, read here: what each says, in the places where the algorithm looks."""
    lines = [line for one in vector("pa2_real_lines_parsed") for line in [one["line"]]]
    keep = [line for line in lines if line[:2] not in ("81", "82")]
    file = parse_pa2("\n".join(keep))
    assert file["complex"] == "CME" and file["rates"]["CLP", "USD"] == Fraction(1063, 10**6)
    assert file["slots"]["CBT", "GT1", "OOF"] == ("26", 0)
    meal = file["commodities"]["06"]
    assert [tier["start"] for tier in meal["intra"]] == ["202507", "202508", "202509", "202510"]
    assert meal["ratios"]["speculator"] == Fraction(11, 10)
    fly = meal["charges"][0]
    assert fly["rate"] == 100 and [
        (one["key"], one["ratio"], one["side"]) for one in fly["legs"]
    ] == [(14, 1, "A"), (15, 2, "B"), (16, 1, "A")]
    dow = file["commodities"]["YM"]
    assert dow["delivery"] == {"202506": (1, 0)} and dow["som"] == 170 and dow["som_method"] == 1
    gas = file["spreads"][0]
    assert gas["method"] == "04" and gas["super"] and gas["least"] == 1
    assert [(one["cc"], one["ratio"], one["target"], one["required"]) for one in gas["legs"]] == [
        ("NY-HH", 1, False, False),
        ("NY-HP", 1, False, False),
        ("NY-NG", 1, True, False),
    ]
    assert gas["legs"][0]["rate"] == 98
    assert file["months"]["CME", "ES", "FUT", "201903", ""] == {
        "range": 6_000,
        "percent": False,
        "scaling": Fraction(1, 5),
    }
    oil = file["commodities"]["07"]
    assert oil["wfpr"] == 2 and oil["scan"] == [] and len(oil["inter"]) == 2
    assert file["families"]["CBT", "21", "FUT"]["price"] == (3, "C")
    assert file["splits"] == {"31": "M"} and file["options_on"] == {"31": "31"}
    assert file["combinations"] == {
        ("CBT", "31", "202507"): [
            {"product": ("CBT", "S", "FUT"), "period": "202507", "ratio": -10}
        ]
    }


def test_real_contract():
    text = data("cme_pa2_real_lines_20190102.txt").read_text().splitlines()
    mini = [line for line in text if line[:5] in ("0 CME", "P CME", "B CME", "81CME", "82CME")]
    cc = "2 CME SP    0USD$PN   ES        FUT"
    file = parse_pa2("\n".join([mini[0], cc, *mini[1:]]))
    one = file["contracts"]["CME:ES:FUT:201903"]
    assert one["price"] == 2_511 and one["multiplier"] == 50 and one["scaling"] == Fraction(1, 5)
    assert one["array"] == [
        0,
        0,
        -2000,
        -2000,
        2000,
        2000,
        -4000,
        -4000,
        4000,
        4000,
        -6000,
        -6000,
        6000,
        6000,
        -5940,
        5940,
    ]
    assert margin(file, [("CME:ES:FUT:201903", 3)])["totals"] == {"USD": 18_000}
    assert file["commodities"]["SP"]["psr"]["201903"]["up"] == 30_000


def test_wide_arrays_and_missing_prices():
    base = [
        "0 X     20260101SC                 U2YN",
        "P X  O         OOF               -02000  " + "00000010000000",
        "P X  F         FUT               000000  00000010000000",
        "2 X   CC    1USD PN   O         OOF2+ F         FUT",
    ]
    who = "X  O         F         OOFC202601   202601   0000005"
    values = "".join(f"{value:08d}-" for value in range(100, 1_000, 100))
    first = f"83{who[:-7]}0000005{values}00000000000007Y"
    rest = "".join(f"{value:08d}+" for value in range(100, 800, 100))
    second = f"84{who[:-7]}0000005{rest}05000-000000000000000+-"
    one = parse_pa2("\n".join([*base, first, second]))["contracts"]["X:O:OOF:202601:202601:C:-5"]
    assert one["price"] == 700 and one["strike"] == -5 and one["delta"] == Fraction(-1, 2)
    assert one["array"][:2] == [-10, -20] and one["array"][-1] == 70
    gone = second[:131] + "9999999" + second[138:]
    missing = parse_pa2("\n".join([*base, first[:-1] + "N", gone]))
    assert missing["contracts"]["X:O:OOF:202601:202601:C:-5"]["price"] is None
    with pytest.raises(ValueError, match="no price"):
        margin(missing, [("X:O:OOF:202601:202601:C:-5", 1)])
    with pytest.raises(ValueError, match="line 5"):
        parse_pa2("\n".join([*base, first.replace("00000100-", "0000x100-")]))


@pytest.mark.parametrize("seed", range(12))
def test_both_formats_say_the_same(seed):
    drawn = model(seed)
    text, xml = as_pa2(drawn), as_xml(drawn)
    once = parse_pa2(text)
    rng = random.Random(seed)
    for how in (("hedger", False), ("speculator", True)):
        other = parse_spn(xml, rate_for(xml, *how))
        assert set(once["contracts"]) == set(other["contracts"])
        for _ in range(6):
            held = portfolio(drawn, rng)
            assert margin(once, held, *how) == margin(other, held, *how)


def test_other_grids_in_xml():
    points = "".join(
        f"<scanPointDef><point>{place}</point><priceScanDef><mult>{step}</mult></priceScanDef>"
        f"<pairedPoint>{pair}</pairedPoint></scanPointDef>"
        for place, step, pair in ((1, 0, 1), (2, 1, 3), (3, 1, 2), (4, -1, 4))
    )
    made = (
        "<spanFile><pointInTime><date>20260101</date><clearingOrg><ec>X</ec><pointDef>"
        + points
        + "</pointDef>"
        "<exchange><exch>X</exch><futPf><pfId>1</pfId><pfCode>F</pfCode><cvf>1</cvf><fut><cId>1</cId><pe>20260128</pe>"
        "<p>5</p><ra><r>1</r><a>1</a><a>-9</a><a>-7</a><a>10</a><d>1</d></ra></fut></futPf></exchange>"
        "<ccDef><cc>C</cc><currency>INR</currency><pfLink><exch>X</exch><pfId>1</pfId></pfLink></ccDef>"
        "</clearingOrg></pointInTime></spanFile>"
    )
    found = margin(parse_spn(made), [("X:F:FUT:20260128", -2)])["rows"]["C"]
    assert found["scan_risk"] == 18 and found["active_scenario"] == 2 and found["currency"] == "INR"


@pytest.mark.parametrize("seed", range(20))
def test_twice_the_positions_cost_twice(seed):
    """No step rounds, so figures grow with positions; nor does the order of positions count."""
    drawn = model(1_000 + seed, xml=False)
    exchange = parse_pa2(as_pa2(drawn))
    rng = random.Random(seed)
    for _ in range(5):
        held = portfolio(drawn, rng)
        once = margin(exchange, held)
        more = margin(exchange, [(name, 2 * quantity) for name, quantity in reversed(held)])
        for code, found in once["rows"].items():
            for name, figure in found.items():
                if name not in ("active_scenario", "currency", "losses"):
                    assert more["rows"][code][name] == 2 * figure
        for name, amount in once["totals"].items():
            assert more["totals"][name] == 2 * amount


def small_xml(inside: str = "", between: str = "", charges: str = "F", far: str = "") -> str:
    """One commodity of two months with asymmetric scans, core and reserve rates, and another."""

    def future(month: str, size: int) -> str:
        values = "".join(f"<a>{size * step}</a>" for step in (0, 0, -1, -1, 1, 1, -2, -2, 2, 2))
        rest = "".join(f"<a>{size * step}</a>" for step in (-3, -3, 3, 3, -3, 3))
        scan = f"<priceScan>{size}</priceScan><priceScanDown>{2 * size}</priceScanDown>"
        return (
            f"<fut><cId>{month}</cId><pe>{month}</pe><p>9</p><scanRate><r>1</r>{scan}</scanRate>"
            f"<ra><r>1</r>{values}{rest}<d>1</d></ra></fut>"
        )

    def defined(code: str, more: str) -> str:
        return (
            f"<ccDef><cc>{code}</cc><currency>USD</currency><wfprMeth>SCANRANGE</wfprMeth>"
            f"<pfLink><exch>X</exch><pfId>{code}</pfId></pfLink>"
            f"<adjRate><r>2</r><baseR>1</baseR><val>0.5</val></adjRate>{more}</ccDef>"
        )

    legs = "".join(
        f"<pLeg><cc>L</cc><pe>{month}</pe><rs>{side}</rs><i>1</i></pLeg>"
        for month, side in (("202601", "A"), ("202605", "B"))
    )
    charge = f"<dSpread><spread>1</spread><chargeMeth>{charges}</chargeMeth>"
    charge += f"<rate><r>1</r><val>10</val></rate>{legs}</dSpread>"
    families = "".join(
        f"<futPf><pfId>{code}</pfId><pfCode>{code}</pfCode><cvf>7</cvf>"
        f"{future('202601', 100)}{future('202605', 100)}</futPf>"
        for code in "LR"
    )
    rates = "".join(
        f"<pbRateDef><r>{number}</r><acctType>M</acctType><isM>1</isM><pbc>{name}</pbc></pbRateDef>"
        for number, name in ((1, "CORE"), (2, "RESRV"))
    )
    return (
        f"<spanFile><pointInTime><date>20260101</date><clearingOrg><ec>X</ec>{rates}<exchange>"
        f"<exch>X</exch>{families}</exchange>{defined('L', charge + inside)}{defined('R', '')}"
        f"<interSpreads>{between}</interSpreads><interClearSpreads>{far}</interClearSpreads>"
        "</clearingOrg></pointInTime></spanFile>"
    )


def between_xml(kind: str, value: int) -> str:
    legs = "".join(
        f"<tLeg><cc>{code}</cc><tn>0</tn><rs>{side}</rs><i>1</i></tLeg>"
        for code, side in (("L", "A"), ("R", "B"))
    )
    rate = f"<rate><r>1</r><val>{value}</val></rate>"
    return f"<dSpread><spread>1</spread><chargeMeth>{kind}</chargeMeth>{rate}{legs}</dSpread>"


def test_charges_in_xml():
    calendar = ("X:L:FUT:202601", 3), ("X:L:FUT:202605", -1)
    charged = {
        kind: margin(parse_spn(small_xml(charges=kind)), calendar)["rows"]["L"] for kind in "FPW"
    }
    assert charged["F"]["intra_spread_charge"] == 10 and charged["P"]["intra_spread_charge"] == 40
    # Weighted: a credit, of the range that a long position fears.
    assert charged["W"]["intra_spread_charge"] == -2 * 200 * Fraction(1, 10)


def test_spreads_between_in_xml():
    held = ("X:L:FUT:202601", 2), ("X:R:FUT:202605", -1)
    weighted = margin(parse_spn(small_xml(between=between_xml("W", 10))), held)["rows"]
    assert [one["inter_spread_credit"] for one in weighted.values()] == [20, 10]
    flat = margin(parse_spn(small_xml(between=between_xml("F", -10))), held)["rows"]
    assert [one["inter_spread_credit"] for one in flat.values()] == [5, 5]
    with pytest.raises(ValueError, match="charged by P"):
        parse_spn(small_xml(between=between_xml("P", 1)))


def test_core_and_reserve_in_xml():
    text = small_xml()
    held = [("X:L:FUT:202601", 1)]
    assert margin(parse_spn(text, rate_for(text, "member", False)), held)["totals"] == {"USD": 300}
    reserve = parse_spn(text, rate_for(text, "member", False, core=False))
    assert margin(reserve, held)["totals"] == {"USD": 150}


def test_what_xml_asks_and_is_not_done():
    far = "<clearSpread><spread>1</spread><homeLeg><cc>L</cc></homeLeg></clearSpread>"
    exchange = parse_spn(small_xml(far=far))
    assert margin(exchange, [("X:R:FUT:202601", 1)])["totals"] == {"USD": 300}
    with pytest.raises(ValueError, match="another clearing organisation"):
        margin(exchange, [("X:L:FUT:202601", 1)])
    rolling = "<dSpread><spread>2</spread><rpLeg><cc>L</cc></rpLeg></dSpread>"
    with pytest.raises(ValueError, match="rolling"):
        parse_spn(small_xml(inside=rolling))


def test_series_come_before_tiers():
    """Priorities count within series spreads and within tier spreads, series first."""
    lines = [
        put((1, "C X"), (9, "1001020000400"), (22, "010101A020201B")),
        put((1, "E X"), (9, "00009"), (14, "0000250"), (21, "2509   010000A2510   010000B")),
        put((1, "E X"), (9, "00001"), (14, "0000007"), (21, "2509   020000A251112 005000B")),
    ]
    charges = parse_pa2("\n".join(lines))["commodities"]["X"]["charges"]
    assert [(one["rate"], one["priority"]) for one in charges] == [(7, 1), (250, 9), (400, 1)]
    assert [(leg["key"], leg["ratio"]) for leg in charges[0]["legs"]] == [
        ("202509", 2),
        ("20251112", Fraction(1, 2)),
    ]


def test_exponents():
    month = put((1, "B X"), (6, "F"), (16, "FUT202601"), (53, "00500"), (166, "02-"))
    family = put((1, "P X"), (6, "F"), (16, "FUT"), (42, "00000010000000"), (73, "-03"))
    file = parse_pa2("\n".join([family, month]))
    assert file["months"]["X", "F", "FUT", "202601", ""]["range"] == 5
    assert file["families"]["X", "F", "FUT"]["multiplier"] == Fraction(1, 1_000)
