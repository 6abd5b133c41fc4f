"""SIMM as a model of a run: portfolios of its own CRIF are accounts, call and post levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from gpu_margin.backend import Backend
from gpu_margin.crif import MODELS, Crif
from gpu_margin.crif_parts import pieces
from gpu_margin.io.crif import read_crif
from gpu_margin.io.tables import file_hash
from gpu_margin.models.simm import calculation, tables
from gpu_margin.models.simm.calculation import SimmResult, calculate
from gpu_margin.models.simm.factors import factors_of
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.models.simm.levels import over_classes
from gpu_margin.result import FileMargin

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FILES = ("crif", "fx")
CURRENCY = "USD"

_SIMM = MODELS.index("SIMM")
# Components of the product classes, in their order.
_CLASSES = ("rates_fx", "credit", "equity", "commodity")
# Rows that are calculated at a time.
_ROWS = 2_000_000


def _known(version: str) -> str:
    tables.load(version)
    return version


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (str, Path)) else value


class Parameters(calculation.Parameters):
    """Settings of a SIMM model."""

    version: Annotated[str, AfterValidator(_known)] = Field(
        default=tables.LATEST, description="of SIMM, as 2.8+2512, or latest"
    )
    crif: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = Field(
        min_length=1, description="files of sensitivities"
    )
    fx: Path | None = Field(
        default=None, description="rates to USD, for rows of the CRIF without AmountUSD"
    )


@dataclass(frozen=True)
class Inputs:
    """A CRIF and the files that it is from."""

    crif: Crif
    files: list[dict[str, Any]]

    @property
    def accounts(self) -> pl.Series:
        """Ids of the portfolios."""
        return self.crif.portfolios

    @property
    def computable(self) -> bool:
        """Whether there is a good row."""
        return len(self.crif) > 0

    @property
    def failures(self) -> pl.DataFrame:
        """Rows that could not be read."""
        return self.crif.failures

    @property
    def counts(self) -> Mapping[str, int]:
        """Of portfolios, of their good rows and of distinct factors in these."""
        return {
            "crif_portfolios": len(self.crif.portfolios),
            "crif_rows": len(self.crif),
            "crif_factors": len(self.crif.factors),
        }

    def pieces(self) -> Iterator[Inputs]:
        """The same portfolios in pieces that fit into memory, without the failures."""
        return (replace(self, crif=piece) for piece in pieces(self.crif, _ROWS))


def load(parameters: Parameters) -> Inputs:
    """Read the CRIF; raises `ConfigError` where a file is not there."""
    crif = read_crif(list(parameters.crif), fx=parameters.fx)
    files = [
        {**_described("crif", path), "rows": rows}
        for path, rows in zip(parameters.crif, crif.source_rows, strict=True)
    ]
    if parameters.fx is not None:
        files.append(_described("fx", parameters.fx))
    return Inputs(crif, files)


def _described(name: str, path: Path) -> dict[str, Any]:
    digest = None if path.is_dir() else file_hash(path)
    return {"input": name, "path": str(path.resolve()), "sha256": digest}


def check(parameters: Parameters, inputs: Inputs) -> pl.DataFrame:
    """Failures of rows whose factors the version does not know."""
    rules = calculation.rules_of(parameters)
    factors = factors_of(rules, inputs.crif.factors)
    return calculation.unknown(inputs.crif, factors).failures


def margin(parameters: Parameters, inputs: Inputs, rate: float, backend: Backend) -> FileMargin:
    """Initial margin of all portfolios on the sides that are asked for, at `rate` for one USD."""
    result = calculate(inputs.crif, parameters, backend)
    known, figures = result.known, result.rules.tables
    sides = {SIDES[place].lower(): place for place in parameters.places}
    return FileMargin(
        accounts=inputs.accounts,
        requirement={name: result.totals[:, place] * rate for name, place in sides.items()},
        components={name: _parts(result, place, rate) for name, place in sides.items()},
        known=known,
        complete=~result.incomplete,
        table="simm",
        details=_levels(result, known, rate),
        facts={
            "version": figures.version,
            "effective_date": figures.effective_date.isoformat(),
            **parameters.model_dump(include={"horizon", "side", "calculation_currency"}),
        },
        failures=result.failures.slice(len(inputs.failures)),
    )


def _parts(result: SimmResult, place: int, rate: float) -> dict[str, Floats]:
    """What adds up to the margin of a side: [portfolio] of the calculation that counts."""
    side, winning = result.sides[place], result.winners.total[:, place]
    classes = zip(_CLASSES, side.levels.product_class.T, strict=True)
    parts = {
        **dict(classes),
        "product_class_multipliers": over_classes(side.additional),
        "notional_add_on": side.notional,
        "fixed_add_on": side.fixed,
        "schedule": side.schedule,
    }
    # The last place is that of no calculation, which -1 takes.
    return {name: np.append(amount, 0.0)[winning] * rate for name, amount in parts.items()}


def _levels(result: SimmResult, known: Bools, rate: float) -> pl.DataFrame:
    """The long table; null where nothing is known of a portfolio."""
    table = result.table().with_columns(pl.col("initial_margin") * rate)
    if known.all():
        return table
    lost = pl.col("portfolio_id").is_in(result.crif.portfolios.filter(~known).implode())
    return table.with_columns(pl.when(~lost).then("initial_margin").alias("initial_margin"))
