"""The cap on offsets between groups, and clusters: by hand, by plain loops, and through a run."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpu_margin
from gpu_margin.failures import ConfigError
from gpu_margin.offsets import Offsets
from gpu_margin.portfolio import Rows

GROUPS = np.array([0, 0, 1, 2])


def absolute(rows: Rows) -> np.ndarray[Any, Any]:
    """|sum of values| per row: perfect offsets."""
    return np.array(
        [abs(rows.value[a:b].sum()) for a, b in zip(rows.offsets, rows.offsets[1:], strict=False)]
    )


def one_row(*values: float) -> Rows:
    return Rows(np.array([0, len(values)]), np.arange(len(values)), np.array(values))


def required(offsets: Offsets, rows: Rows) -> tuple[list[float], list[float]]:
    base, capped = offsets.required(rows, absolute)
    return base.tolist(), capped.tolist()


def test_a_share_of_the_offset_between_groups_counts() -> None:
    # groups: |3 - 1| = 2, |-4| = 4, |5| = 5; together |3 - 1 - 4 + 5| = 3
    rows = one_row(3.0, -1.0, -4.0, 5.0)
    assert required(Offsets(0.8, GROUPS, None), rows) == ([3.0], [pytest.approx(0.2 * 11 + 2.4)])
    assert required(Offsets(0.0, GROUPS, None), rows) == ([3.0], [11.0])
    assert required(Offsets(1.0, GROUPS, None), rows) == ([3.0], [3.0])


def test_positions_offset_inside_a_cluster_only() -> None:
    rows = one_row(3.0, -1.0, -4.0, 5.0)
    # clusters {0, 1} and {2}: |3 - 1 - 4| = 2 and |5| = 5
    cluster = np.array([0, 0, 0, 1])
    assert required(Offsets(1.0, GROUPS, cluster), rows) == ([7.0], [7.0])
    # with the cap: 0.5 (2 + 4) + 0.5 * 2 = 4, and 5
    assert required(Offsets(0.5, GROUPS, cluster), rows) == ([7.0], [9.0])


def test_a_lone_group_is_not_changed_by_rounding() -> None:
    rows = one_row(0.1, 0.2)
    assert required(Offsets(0.3, GROUPS, None), rows) == ([abs(0.1 + 0.2)], [abs(0.1 + 0.2)])


def test_rows_without_entries_require_nothing() -> None:
    empty = Rows(np.array([0, 0, 0]), np.zeros(0, dtype=np.int64), np.zeros(0))
    assert required(Offsets(0.8, GROUPS, GROUPS), empty) == ([0.0, 0.0], [0.0, 0.0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.booleans())
def test_against_plain_loops(seed: int, share: float, clustered: bool) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 4, 9)
    cluster_of_group = rng.integers(0, 3, 4)
    rows, lists = random_rows(rng, 9)
    offsets = Offsets(share, group, cluster_of_group[group] if clustered else None)
    _, capped = offsets.required(rows, absolute)
    for entries, got in zip(lists, capped, strict=True):
        clusters: dict[int, list[tuple[int, float]]] = {}
        for column, value in entries:
            key = int(cluster_of_group[group[column]]) if clustered else 0
            clusters.setdefault(key, []).append((int(group[column]), value))
        total = 0.0
        for members in clusters.values():
            together = abs(sum(value for _, value in members))
            alone = sum(
                abs(sum(value for g, value in members if g == name))
                for name in {g for g, _ in members}
            )
            total += max(together, (1 - share) * alone + share * together)
        assert got == pytest.approx(total, abs=1e-9)


def random_rows(
    rng: np.random.Generator, columns: int
) -> tuple[Rows, list[list[tuple[int, float]]]]:
    lists = []
    for _ in range(int(rng.integers(1, 6))):
        chosen = np.sort(rng.permutation(columns)[: rng.integers(0, columns)])
        lists.append([(int(column), float(rng.normal())) for column in chosen])
    offsets = np.concatenate([[0], np.cumsum([len(entries) for entries in lists])])
    flat = [entry for entries in lists for entry in entries]
    column = np.array([column for column, _ in flat], dtype=np.int64)
    return Rows(offsets, column, np.array([value for _, value in flat])), lists


# ---------------------------------------------------------------- through a run


def tables() -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(5)
    names = ["A", "B", "C"]
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(60)]
    prices = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (60, 3)), axis=0))
    history = [
        {"date": day, "factor": name, "price": float(prices[n, m])}
        for n, day in enumerate(days)
        for m, name in enumerate(names)
    ]
    instruments = [
        {"instrument_id": f"{name}{k}", "kind": "future", "underlying": name, "currency": "USD",
         "price": 100.0, "sector": None if name == "C" else "metal"}
        for name in names for k in range(2)
    ]  # fmt: skip
    positions = [
        {"account_id": f"acc{a}", "instrument_id": f"{name}{k}", "quantity": float(q)}
        for a in range(4)
        for name in names
        for k, q in enumerate(rng.integers(-9, 9, 2))
    ]
    return {
        "positions": pl.DataFrame(positions),
        "instruments": pl.DataFrame(instruments),
        "history": pl.DataFrame(history),
    }


def config(**settings: Any) -> dict[str, Any]:
    es = {"kind": "es", "confidence": 0.9}
    simulation = {
        "kind": "simulation",
        "scenarios": {"kind": "historical", "lookback": 50},
        "measure": es,
    }
    covariance = {
        "kind": "covariance",
        "confidence": 0.99,
        "estimator": {"kind": "sample"},
        "lookback": 50,
    }
    return {
        "valuation_date": "2024-06-01",
        "currency": "USD",
        "models": {"es": {**simulation, **settings}, "cov": {**covariance, **settings}},
    }


def requirements(**settings: Any) -> dict[tuple[str, str], float]:
    run = gpu_margin.run(config(**settings), backend="numpy", **tables())
    parts = run.components.group_by("account_id", "model").agg(pl.col("amount").sum())
    both = run.margins.join(parts, on=["account_id", "model"])
    assert np.allclose(both["requirement"], both["amount"], rtol=1e-12)
    return {(row[0], row[1]): row[2] for row in run.margins.select(
        "account_id", "model", "requirement").iter_rows()}  # fmt: skip


def test_a_run_with_a_cap_is_what_its_groups_say() -> None:
    free = gpu_margin.run(config(), backend="numpy", **tables())
    group = {
        key: float(part["requirement"].sum())
        for key, part in free.groups.group_by("account_id", "model")
    }
    capped = requirements(offset_cap=0.6)
    for row in free.margins.iter_rows(named=True):
        key = (row["account_id"], row["model"])
        expected = max(row["requirement"], 0.4 * group[key] + 0.6 * row["requirement"])
        assert capped[key] == pytest.approx(expected, rel=1e-12)
        assert capped[key] > row["requirement"]
    nothing_counts = requirements(offset_cap=0.0)
    for key, total in nothing_counts.items():
        assert total == pytest.approx(group[key], rel=1e-12)


def test_clusters_of_one_group_are_no_offset_at_all() -> None:
    alone, none = requirements(offset_clusters=[["A"]]), requirements(offset_cap=0.0)
    assert alone == pytest.approx(none, rel=1e-12)
    assert requirements(offset_clusters=[["A", "B", "C"]]) == requirements()


def test_groups_may_be_of_any_column() -> None:
    # A and B are metal; what has no sector offsets nothing else
    by_sector = requirements(offset_cap=0.0, offset_column="sector")
    free, per_instrument = requirements(), requirements(offset_cap=0.0)
    assert all(free[key] <= by_sector[key] + 1e-9 for key in free)
    assert any(abs(by_sector[key] - per_instrument[key]) > 1e-6 for key in free)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offset_cap": 1.5}, "less than or equal to 1"),
        ({"offset_clusters": [["A", "B"], ["B", "C"]]}, "'B' stands in two clusters"),
        (
            {"offset_clusters": [["A", "B"]], "unreliable_pairs": [["B", "A"]]},
            "different clusters",
        ),
        ({"unreliable_pairs": [["B", "A"]]}, "different clusters"),
        ({"offset_cap": 0.8, "offset_column": "colour"}, "no column 'colour'"),
    ],
)
def test_what_cannot_be_is_a_config_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gpu_margin.run(config(**settings), backend="numpy", **tables())


def test_an_unreliable_pair_in_different_clusters_is_fine() -> None:
    apart = {"offset_clusters": [["A", "C"], ["B"]], "unreliable_pairs": [["A", "B"]]}
    assert requirements(**apart)
