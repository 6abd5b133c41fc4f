"""What contenders took so far in a run, and what that says of a larger size."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from gpu_margin.bench.cases import Work
from gpu_margin.bench.result import Row

# A shorter time says more of what a call costs in itself than of what it does.
TELLING_SECONDS = 0.1


@dataclass(frozen=True)
class Expected:
    """`seconds` of one call, and in words where they come from."""

    seconds: float
    text: str


@dataclass(frozen=True)
class _Seen:
    """A time that was taken: `seconds` of `steps` (see `Work`) at the size `label`."""

    steps: float
    seconds: float
    label: str


_Key = tuple[str, str, str, str]


@dataclass
class Pace:
    """Rates of a run's contenders, by workload, variant and precision."""

    _seen: dict[_Key, list[_Seen]] = field(default_factory=lambda: defaultdict(list))

    def learn(self, row: Row, work: Work) -> None:
        """Note the time of a row, if it has one that tells something."""
        if row.seconds is not None and row.seconds >= TELLING_SECONDS:
            self._seen[_key(row)].append(_Seen(_steps(row, work), row.seconds, row.size))

    def expect(self, row: Row, work: Work) -> Expected | None:
        """What a call of the row's contender on its `units` takes; None where nothing is known.

        Its rate is that of the largest size that was not larger.
        """
        steps = _steps(row, work)
        smaller = [seen for seen in self._seen.get(_key(row), ()) if seen.steps <= steps]
        if not smaller:
            return None
        last = max(smaller, key=lambda seen: seen.steps)
        seconds = last.seconds * steps / last.steps
        return Expected(
            seconds, f"about {seconds:,.0f} s here (from its {last.seconds:.2g} s at {last.label})"
        )


def _key(row: Row) -> _Key:
    return row.title, row.contender, row.variant, row.precision


def _steps(row: Row, work: Work) -> float:
    return work.steps * row.units / work.units
