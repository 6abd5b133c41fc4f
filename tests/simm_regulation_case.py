"""The regulation cases of the standard's unit tests: each a portfolio, and what it should come to.

`cases()` reads them from the vectors. A case's rows are one portfolio, named by the case. `figure`
picks what a case is about from totals per calculation: the side by its role, and the largest
calculation of all (TOTAL), of those that are segregated, or the one that is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import simm_case
from crif_case import crif_of

from gpu_margin.crif import Crif, Floats
from gpu_margin.models.simm.regulations import Calculations, figures, winners

SIDE_OF_ROLE = {"SECURED": 0, "PLEDGOR": 1}
FIELD_OF_MODE = {
    "TOTAL": "total",
    "SEGREGATED": "segregated",
    "UNSEGREGATED": "unsegregated",
}


@dataclass(frozen=True)
class RegulationCase:
    """`expected` USD, rounded half up; `side` 0 Call, 1 Post; `mode` a field of `Winners`."""

    name: str
    version: str
    horizon: str
    rows: tuple[dict[str, Any], ...]
    side: int
    mode: str
    expected: int
    breakdown: dict[str, int]


def cases() -> list[RegulationCase]:
    """All cases of all files, the portfolio of their rows set to the name of the case."""
    return [
        RegulationCase(
            name=test.name,
            version=file.version,
            horizon=file.horizon,
            rows=tuple({**row, "PortfolioID": test.name} for row in test.rows),
            side=SIDE_OF_ROLE[test.role],
            mode=FIELD_OF_MODE[test.mode],
            expected=test.total,
            breakdown=test.breakdown,
        )
        for file in map(simm_case.unit_file, simm_case.regulation_files())
        for test in file.tests
    ]


def crif_of_cases(chosen: list[RegulationCase]) -> Crif:
    """All of them as one batch, a portfolio each."""
    return crif_of(row for case in chosen for row in case.rows)


def figure(case: RegulationCase, crif: Crif, calculations: Calculations, totals: Floats) -> float:
    """What the case is about, from `totals` [calculation, side] in USD."""
    found = figures(totals, getattr(winners(calculations, totals), case.mode))
    return float(found[crif.portfolios.to_list().index(case.name), case.side])
