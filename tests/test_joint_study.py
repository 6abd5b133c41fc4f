"""The study of crashes, on made-up closes in the files' two shapes."""

from __future__ import annotations

import json
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import joint_books
import joint_study
import joint_venues

CRASH = date(2023, 8, 1)
FIRST, CUT, LAST = date(2022, 5, 1), date(2023, 7, 3), date(2023, 8, 20)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """BTC falls by 30% and ETH by 40% on one day; SOL has no history before it."""
    rng = np.random.default_rng(1)
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    for coin, fall in (("BTC", 0.3), ("ETH", 0.4), ("SOL", 0.5)):
        move = 0.02 * rng.normal(size=len(days))
        move[days.index(CRASH)] = -fall
        close = dict(zip(days, (100.0 * np.cumprod(1.0 + move)).tolist(), strict=True))
        own = days if coin != "SOL" else days[-60:]
        old = [f"{day},1,1,1,{close[day]},1,1" for day in own if day <= CUT]
        head = "Date,Open,High,Low,Close,Adj Close,Volume"
        (tmp_path / f"{coin}-USD_1d_to_2023-07.csv").write_text("\n".join([head, *old]))
        # The newer file overlaps, with other prices that must not be taken.
        new = [f"{d},{close[d] if d > CUT else 7.0},1,1,1,1" for d in own if d > date(2023, 1, 1)]
        head = f"Price,Close,High,Low,Open,Volume\nTicker,{','.join([coin] * 5)}\nDate,,,,,"
        (tmp_path / f"{coin}-USD_1d_2020-2025.csv").write_text("\n".join([head, *new]))
    return tmp_path


def test_prices_are_joined(data: Path) -> None:
    prices = joint_books.read_prices(data, ("BTC", "ETH"))
    assert len(prices.days) == (LAST - FIRST).days + 1
    move = prices.close[1:] / prices.close[:-1] - 1.0
    place = prices.place(CRASH) - 1
    assert move[place] == pytest.approx([-0.3, -0.4])
    assert np.abs(np.delete(move, place, axis=0)).max() < 0.1


def test_the_study_leaves_tables_and_no_path(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(joint_study, "CRASHES", (CRASH,))
    monkeypatch.setattr(joint_venues, "requirements", lambda market, held: {})
    options = ["--data", str(data), "--out", str(tmp_path / "out"), "--every", "40"]
    monkeypatch.setattr(sys, "argv", ["joint_study.py", *options])
    joint_study.main()
    (record,) = (tmp_path / "out").glob("*.json")
    (page,) = (tmp_path / "out").glob("*.md")
    found = json.loads(record.read_text())
    assert str(tmp_path) not in page.read_text() + record.read_text()
    assert capsys.readouterr().out.strip() == page.read_text().strip()
    rows = {row["book"]: row for row in found["crashes"]}
    assert len(rows) == 6  # those without SOL
    both, pair = rows["long both"], rows["short BTC, long ETH"]
    assert both["loss"] == pytest.approx(700e3) and pair["loss"] == pytest.approx(100e3)
    assert both["required"]["joint"] < both["required"]["grid sum"] == pytest.approx(360e3)
    assert pair["required"]["joint"] == pytest.approx(pair["terms"]["requirement"])
    assert rows["long BTC, short ETH"]["loss"] == pytest.approx(-100e3)
    assert 50e3 < -rows["long ETH straddle, short BTC straddle"]["loss"] < 100e3
    for row in found["every_day"]:
        assert row["days"] == len(range(366, (LAST - FIRST).days - 1, 40))
        assert row["rulebooks"]["grid sum"]["mean"] >= row["rulebooks"]["joint"]["mean"]
