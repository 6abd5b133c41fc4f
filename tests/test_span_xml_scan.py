"""Both readers of XML documents see the same, and nothing in a document makes the tables fail."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from span_random import model
from span_random_xml import as_xml
from span_xml_case import (
    assert_same,
    commodity,
    document,
    family,
    future,
    one_future,
    read,
    read_slowly,
    tag,
    tags,
)

from gpu_margin.failures import ConfigError
from gpu_margin.io import span_xml_scan
from gpu_margin.io.span_xml_expat import parse
from gpu_margin.io.span_xml_scan import scan
from gpu_margin.io.span_xml_tree import Tree


def assert_same_trees(one: Tree, other: Tree) -> None:
    every = np.arange(len(one))
    assert len(one) == len(other) and one.line_count == other.line_count
    assert [one.names[code] for code in one.name] == [other.names[code] for code in other.name]
    assert np.array_equal(one.parent, other.parent)
    assert one.said(every) == other.said(every)
    assert np.array_equal(one.lines(every), other.lines(every))


# After the last tag, of which eight bytes are looked at together.
END = b"\n" * 8

USUAL = [
    "<a>1</a>",
    "<a>\n</a>\n\n",
    "<a><b>1</b><b/><c> 2 </c>\n<b>3</b>tail</a>",
    "<a>before<b>1</b>after</a>",
    '<?xml version="1.0"?>\r\n<a>\r\n<b>x</b>\r\n</a>\r\n',
    "<?xml version='1.0' encoding='utf-8' standalone='yes' ?><!-- -->\n<a><b/></a>",
    "<a><b>&lt;&amp;&gt; &quot;&apos;</b></a>",
    "<a><!-- one --> <b>1</b><!--\ntwo\n--><c/></a>",
    "<a xmlns='u' x:y=\"1>2\"></a>".replace(">2", " 2"),
    "<p:a xmlns:p='u'><p:b>1</p:b><b>2</b></p:a>",
    "<a><b x='1'>1</b><b x='2'>2</b></a >",
    f"<a><{'long' * 9}>1</{'long' * 9}><{'long' * 9}/></a>",
    "<abcdefgh><abcdefghi>1</abcdefghi><abcdefghijklmnopq/></abcdefgh>",
    "<a>" * 90 + "1" + "</a>" * 90,
    "<a>" + "".join(f"<n{number}>{number}</n{number}>" for number in range(400)) + "</a>",
    "<a><b>Zürich ☃</b></a>",
    "<a><b/><b></b><c><d/></c><b/></a>",
]

ODD = [
    "<a><b>1<!-- one -->2</b></a>",
    "<a><![CDATA[<b>]]></a>",
    "<a>&#65;&#x42;</a>",
    "<a><?php 1 ?></a>",
    "<a>x > y</a>",
    '<a b="1>2"/>',
    "<a\n b='1'/>",
    "<a>1\r2</a>",
    "<a b = '1'/>",
    "<a/>",
    "<a></a><!-- -->",
    "<é>1</é>",
    "<a>" + "".join(f"<b n='{number}'/>" for number in range(2_000)) + "</a>",
]

BROKEN = [
    "",
    "   ",
    "text",
    "<a>",
    "</a>",
    "<a></b>",
    "<a><b></a></b>",
    "<a/><b/>",
    "<a></a>x",
    "x<a></a>",
    "<a>&no;</a>",
    "<a>& </a>",
    "<a>]]></a>",
    "<a>\x01</a>",
    "<a>\x1f</a>",
    "<a>\x0b</a>",
    "<a>\ufffe</a>",
    "<a b='1' b='2'/>",
    "<a b=1/>",
    "<1a/>",
    "< a/>",
    "<a/ >",
    "<></>",
    "<a></a b='1'>",
    "</a/>",
    "<a><b></a>",
    "<p:a xmlns:p='u'></a>",
    "<!-- a -- b --><a/>",
    "<a><!-- --->  <b/></a>",
    "<!-- x --><?xml version='1.0'?><a/>",
    "<a",
    "<a>1</a",
    "<a>" * 101 + "</a>" * 101,
    "<?xml version='1.0'?>",
    "<?xml version='2'?><a>&#0;</a>",
]


@pytest.mark.parametrize("text", USUAL)
def test_usual_documents_are_read_at_once(text: str) -> None:
    data = text.encode() + END
    found = scan(data)
    assert found is not None
    assert_same_trees(found, parse(data, "file"))


@pytest.mark.parametrize("text", ODD)
def test_odd_documents_are_for_the_other_reader(text: str) -> None:
    assert scan(text.encode() + END) is None
    assert len(parse(text.encode() + END, "file")) > 0


@pytest.mark.parametrize("text", BROKEN)
def test_broken_documents_are_named(text: str) -> None:
    assert scan(text.encode() + END) is None
    with pytest.raises(ConfigError, match=r"^file: .*\(line \d+\)$"):
        parse(text.encode() + END, "file")


def test_random_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is made of pieces of markup: if it is taken, both see the same; in small blocks."""
    monkeypatch.setattr(span_xml_scan, "_BLOCK", 16)
    rng = random.Random(5)
    pieces = [
        "<a>",
        "</a>",
        "<b>",
        "</b>",
        "<c/>",
        "1",
        " ",
        "\n",
        "&lt;",
        "<a x='1'>",
        "<longername1>",
    ]
    pieces += ["</longername1>", "<!-- -->", "<longername2>", "</longername2>", ">", "<"]
    taken = 0
    for _ in range(4_000):
        inner = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 6)))
        if rng.random() < 0.7:
            opened = re.findall(r"<([a-z][a-z0-9]*)(?: x='1')?>", inner)
            inner += "".join(f"</{name}>" for name in reversed(opened))
        data = f"<spanFile>{inner}</spanFile>".encode()
        found = scan(data)
        try:
            wanted = parse(data, "file")
        except ConfigError:
            assert found is None, data
            continue
        if found is not None:
            taken += 1
            assert_same_trees(found, wanted)
    assert taken > 500


@pytest.mark.parametrize("seed", range(8))
def test_tables_are_the_same(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = as_xml(model(seed))
    for given in (text, text.replace("><", ">\r\n  <")):
        assert scan(given.encode()) is not None
        assert_same(read(given, tmp_path), read_slowly(given, tmp_path, monkeypatch))


@pytest.mark.parametrize("wrong", ["", "x", "-", "nan", "1e400", "99999999999999999999", "0"])
def test_any_bad_figure_is_a_failure(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every element of a file in turn says something else: never an exception, and no surprise.

    What is no number changes nothing (it is not read, or is a text) or is a failure.
    """
    text = as_xml(model(3))
    whole = read(text, tmp_path)
    places = [found.span(1) for found in re.finditer(r"<\w+>([^<]+)</", text)]
    rng = random.Random(wrong)
    for start, end in rng.sample(places, 60):
        name = re.findall(r"<(\w+)>$", text[:start])[-1]
        if name == "fileFormat":
            continue
        changed = text[:start] + wrong + text[end:]
        found = read(changed, tmp_path)
        if rng.random() < 0.2:
            assert_same(found, read_slowly(changed, tmp_path, monkeypatch))
        numeric = name in NUMBERS and text[start:end] != wrong
        if numeric and wrong not in ("", "0"):
            bad = found.failures.filter(found.failures["field"] == name)
            assert len(bad), (name, text[max(start - 80, 0) : end])
        assert len(found.commodities) == len(whole.commodities) or name == "cc"


# What is always read where random files have it.
NUMBERS = {"a", "k", "p", "outr", "sprd", "tn", "factor", "priceScan", "spread", "d"}


def test_failures_have_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = future("202610", values="1 " * 15 + "x").replace("<a>x", "\n\n<a>x")
    text = one_future(contract=future() + "\n" + wrong).replace("<ccDef>", "\n<ccDef>\n")
    found = read(text, tmp_path)
    assert found.failures["row"].to_list() == [4]
    assert_same(found, read_slowly(text, tmp_path, monkeypatch))


def test_many_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few bytes: no tag is torn."""
    families = "".join(family("futPf", number, f"F{number}", future()) for number in range(40))
    codes = "".join(commodity(f"C{number}", number) for number in range(40))
    text = document(codes, tag("unknownThings", tags(a=1)), families=families)
    wanted = read(text, tmp_path)
    for size in (1, 7, 64, 1_000):
        monkeypatch.setattr(span_xml_scan, "_BLOCK", size)
        assert_same(read(text, tmp_path), wanted)
    assert len(wanted.contracts) == 40
