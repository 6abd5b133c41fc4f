"""What must hold of SIMM for any CRIF: on random rows, by its oracle and by transforming them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simm_strategies import (
    CURVED,
    KINDS,
    NEWEST,
    ROUNDING,
    SIDES,
    TOTAL,
    VERSIONS,
    Book,
    Row,
    book_of,
    books,
    gross,
    is_oracle,
    is_parameter,
    key_of,
    meeting_book,
    near,
    risk_class_of,
    row,
    scaled,
    sensitivities,
    total,
)

from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.kinds import HORIZONS, RISK_CLASSES, STREAM_OF

SOME, FEW = settings(max_examples=40, deadline=None), settings(max_examples=20, deadline=None)


def risks(one: Book) -> list[Row]:
    return [held for held in one.rows if not is_parameter(held)]


# ---------------------------------------------------------------- against the oracle


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("version", tables.versions())
def test_rows_that_meet_are_the_oracles(version: str, horizon: str) -> None:
    is_oracle(meeting_book(version, horizon, size=4))


@given(books())
@settings(max_examples=60, deadline=None)
def test_every_level_is_the_oracles(book: Book) -> None:
    is_oracle(book)


@given(books(size=2, kinds=st.sampled_from(("Risk_IRCurve", "Risk_Inflation", "Risk_XCcyBasis"))))
@SOME
def test_rates_are_the_oracles(book: Book) -> None:
    """Rows that meet: few currencies, in one product class."""
    is_oracle(book.of({**one, "ProductClass": "RatesFX"} for one in book.rows))


@given(st.data())
@SOME
def test_names_of_one_bucket_are_the_oracles(data: Any) -> None:
    kind, book = data.draw(KINDS), data.draw(books(size=1, with_add_ons=False))
    rows = [data.draw(sensitivities(book.version, st.just(kind))) for _ in range(6)]
    is_oracle(
        book.of({**one, "ProductClass": "Equity", "Bucket": rows[0]["Bucket"]} for one in rows)
    )


# ---------------------------------------------------------------- of scale and size


@given(books(horizon="1d"), st.sampled_from((0.25, 2.0, 1024.0)), st.floats(1e-3, 1e3))
@example(meeting_book(horizon="1d"), 2.0, 3.0)
@SOME
def test_without_concentration_margin_is_in_proportion(
    book: Book, power: float, other: float
) -> None:
    """Bit for bit by a power of two; the add-ons are of their own size."""
    plain = book.of(risks(book))
    if not plain.rows:
        return
    levels, most = plain.levels(), gross(plain)
    for factor in (power, other):
        found = plain.of(scaled(one, factor) for one in plain.rows).levels()
        expected = {
            place: {level: factor * amount for level, amount in own.items()}
            for place, own in levels.items()
        }
        if factor == power:
            assert found == expected
        else:
            room = {p: {lv: factor * g for lv, g in own.items()} for p, own in most.items()}
            near(found, expected, room, 1e-13)


@given(st.data(), st.floats(1.0, 1e4))
@SOME
def test_concentration_only_adds_within_a_bucket(data: Any, factor: float) -> None:
    version, kind = data.draw(VERSIONS), data.draw(KINDS)
    own = data.draw(st.lists(sensitivities(version, st.just(kind)), min_size=1, max_size=6))
    one = {name: own[0][name] for name in ("Bucket", "ProductClass")}
    if risk_class_of(kind) == "InterestRate":
        one["Qualifier"] = own[0]["Qualifier"]
    plain = book_of([{**held, **one} for held in own], version=version)
    larger = plain.of(scaled(held, factor) for held in plain.rows)
    most, levels, found = gross(larger), plain.levels(), larger.levels()
    for side in SIDES:
        room = 1e-6 + ROUNDING * most["P", side].get(TOTAL, 0.0)
        assert found["P", side][TOTAL] >= factor * levels["P", side][TOTAL] * (1 - 1e-12) - room


def test_concentration_may_take_away_across_buckets() -> None:
    """The rulebook's own: a short position that grows concentrated hedges a long one better."""
    rows = [
        row("Risk_Equity", 4e6, Qualifier="A", Bucket="5"),
        row("Risk_Equity", -6e7, Qualifier="B", Bucket="11"),
    ]
    larger = [scaled(one, 10.0) for one in rows]
    assert total(larger) < 9.99 * total(rows)
    for held in (rows, larger):
        is_oracle(book_of(held))


@given(st.data())
@FEW
def test_risks_of_a_bucket_together_need_no_more_than_apart(data: Any) -> None:
    """Delta without concentration: the root of a form of correlations."""
    version = data.draw(VERSIONS)
    kind = data.draw(st.sampled_from([k for k in sorted(STREAM_OF) if k not in CURVED]))
    own = data.draw(st.lists(sensitivities(version, st.just(kind)), min_size=2, max_size=8))
    one = {name: own[0][name] for name in ("Bucket", "ProductClass")}
    if risk_class_of(kind) == "InterestRate":
        one["Qualifier"] = own[0]["Qualifier"]
    held = [{**each, **one} for each in own]
    cut = data.draw(st.integers(1, len(held) - 1))
    whole, first, second = (total(some, "1d", version) for some in (held, held[:cut], held[cut:]))
    most = gross(book_of(held, "1d", version))["P", "Call"].get(TOTAL, 0.0)
    assert whole <= (first + second) * (1 + 1e-12) + ROUNDING * most


def test_where_together_needs_more() -> None:
    """The rulebook's own: names that diversify hedge another bucket less; concentration adds."""
    hedge = row("Risk_Equity", -5e5, Qualifier="B", Bucket="2")
    apart = [[row("Risk_Equity", 1e4, Qualifier=name), hedge] for name in ("A1", "A2")]
    assert total(apart[0] + apart[1], "1d") > sum(total(rows, "1d") for rows in apart)
    is_oracle(book_of(apart[0] + apart[1], "1d"))
    large = [row("Risk_Equity", 1e9)]
    assert total(large * 2) > 2.5 * total(large)


# ---------------------------------------------------------------- of rows


@given(books(), st.integers(0, 10**6))
@example(meeting_book(), 1)
@SOME
def test_the_order_of_rows_changes_no_bit(book: Book, seed: int) -> None:
    """Of three that net, too."""
    threes = [scaled(one, by) for one in risks(book) for by in (1.0, 0.1, 0.7)]
    book = book.of([*threes, *(one for one in book.rows if is_parameter(one))])
    mixed = book.of(Random(seed).sample(book.rows, len(book.rows)))
    assert mixed.levels() == book.levels()


@given(books(size=5))
@example(meeting_book())
@SOME
def test_a_portfolio_alone_has_the_same_bits(book: Book) -> None:
    together = book.levels()
    for name, rows in book.portfolios().items():
        alone = book.of(rows).levels()
        assert alone == {(name, side): together[name, side] for side in SIDES}


@given(books(size=1))
@example(meeting_book())
@FEW
def test_product_classes_do_not_meet(book: Book) -> None:
    levels = book.levels()
    for name in PRODUCT_CLASSES:
        rows = [one for one in book.rows if is_parameter(one) or one["ProductClass"] == name]
        alone = book.of(rows).levels() if rows else {}
        for place, own in levels.items():
            kept = {level: amount for level, amount in own.items() if level[0] == name}
            found = alone.get(place, {})
            assert kept == {level: found[level] for level in found if level[0] == name}


@given(books(), sensitivities(NEWEST), st.integers(0, 3))
@example(meeting_book(), row("Risk_Equity", 1e7, PortfolioID="P003"), 1)
@example(meeting_book(horizon="1d"), row("Risk_FX", 1e9, PortfolioID="P005"), 1)
@SOME
def test_a_row_and_its_opposite_are_none(book: Book, one: Row, seed: int) -> None:
    """Bit for bit without concentration; with it a name of 0 may move a rounding."""
    one = {**one, "PortfolioID": book.rows[0]["PortfolioID"], "Bucket": one["Bucket"] and "1"}
    rows = [held for held in book.rows if key_of(held) != key_of(one)]
    pair = [one, scaled(one, -1.0)]
    plain = book.of(rows)
    both = book.of(Random(seed).sample([*rows, *pair], len(rows) + 2))
    expected, found = plain.levels(), both.levels()
    expected = {place: expected.get(place, {TOTAL: 0.0}) for place in found}
    if book.horizon == "1d":
        assert found == expected
    near(found, expected, gross(both), 1e-14)


@given(books())
@example(meeting_book())
@SOME
def test_halves_of_a_row_are_the_row(book: Book) -> None:
    """Bit for bit where no other row nets with it."""
    halves = book.of(half for one in book.rows for half in _halves(one))
    found, expected = halves.levels(), book.levels()
    if len({key_of(one) for one in book.rows}) == len(book.rows):
        assert found == expected
    near(found, expected, gross(book), 1e-13)


def _halves(one: Row) -> list[Row]:
    whole = one["RiskType"].startswith("Param_") and "Fixed" not in one["RiskType"]
    return [one] if whole else [scaled(one, 0.5)] * 2


# ---------------------------------------------------------------- of sides and currencies


@given(books(kinds=st.sampled_from([kind for kind in sorted(STREAM_OF) if kind not in CURVED])))
@FEW
def test_without_curvature_both_sides_are_one(book: Book) -> None:
    levels = book.levels()
    for name in book.portfolios():
        assert levels[name, "Call"] == levels[name, "Post"]


@given(books(with_add_ons=False))
@example(meeting_book())
@SOME
def test_opposite_risks_swap_the_sides(book: Book) -> None:
    """Bit for bit; three rows or more that net are added in another order, so none are here."""
    held = {(key_of(one), n % 2): one for n, one in enumerate(book.rows)}.values()
    plain, mirrored = book.of(held).levels(), book.of(scaled(one, -1.0) for one in held).levels()
    for name in book.portfolios():
        assert plain[name, "Call"] == mirrored[name, "Post"]
        assert plain[name, "Post"] == mirrored[name, "Call"]


@given(books(with_add_ons=False))
@FEW
def test_the_calculation_currency_is_for_fx_delta_alone(book: Book) -> None:
    kept = [level for level in RISK_CLASSES if level != "FX"]
    seen = []
    for currency in ("USD", "ARS"):
        levels = Book(book.rows, book.version, book.horizon, currency).levels()
        seen.append(
            {
                (*place, *level): amount
                for place, own in levels.items()
                for level, amount in own.items()
                if level[1] in kept or level[1:] in (("FX", "Vega"), ("FX", "Curvature"))
            }
        )
    assert seen[0] == seen[1]
