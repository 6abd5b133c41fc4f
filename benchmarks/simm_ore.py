"""ORE (Open Source Risk Engine), another calculator of SIMM: the same books, its figures.

Needs `pip install open-source-risk-engine` (the extra `ore`). Its calculator takes rows in memory;
its application runs from a CRIF file to a report, and knows other versions of SIMM and currencies.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm.kinds import MARGIN_TYPES, RISK_CLASSES, SIDES

PACKAGE = "open-source-risk-engine"
# Versions of SIMM that the calculator in memory has, and those of the application.
IN_MEMORY = {
    "2.6": "SimmConfiguration_ISDA_V2_6",
    "2.7+2412": "SimmConfiguration_ISDA_V2_7_2412",
    "2.8+2506": "SimmConfiguration_ISDA_V2_8_2506",
    "2.8+2512": "SimmConfiguration_ISDA_V2_8_2512",
}
BY_APPLICATION = ("2.2", "2.3", "2.4", "2.5", "2.5A", "2.6", "2.7+2412", "2.8+2506")
DAYS = {"10d": 10, "1d": 1}
ALL = "All"
_ADD_ONS = ("AddOnFixedAmount", "AddOnNotionalFactor")
_TYPES = (*MARGIN_TYPES, "AdditionalIM", ALL)
# Risk types whose weight ORE looks up by name, not by the bucket of the row.
_MAPPED = (
    *("CreditQ", "CreditVol", "CreditNonQ", "CreditVolNonQ"),
    *("Equity", "EquityVol", "Commodity", "CommodityVol"),
)

# Columns that its application finds in this spelling only.
_SPELLINGS = {
    "CollectRegulations": "collect_regulations",
    "PostRegulations": "post_regulations",
}

Level = tuple[str, str, str]
"""(product class, risk class, margin type)."""
Figures = dict[tuple[str, str], dict[Level, float]]
"""(portfolio, side) -> level -> USD; levels that are 0 are left out."""


def load() -> Any:
    """The package; `ImportError` where it is not installed."""
    with warnings.catch_warnings():
        # Of types that SWIG makes.
        warnings.simplefilter("ignore", DeprecationWarning)
        return import_module("ORE")


def package_version() -> str:
    """Which ORE it is."""
    return installed_version(PACKAGE)


def write_text(table: pl.DataFrame, path: Path) -> None:
    """A table in the spelling of CRIF files as a CSV; nothing stands where a text is empty."""
    empty = table.with_columns(pl.col(pl.String).replace("", None))
    empty.rename(_SPELLINGS, strict=False).write_csv(path)


class Calculator:
    """ORE's calculator in memory, and the rows of a table (of a CRIF file) as it takes them."""

    def __init__(self, table: pl.DataFrame, version: str, horizon: str = "10d") -> None:
        self._ore = load()
        mapper = _mapper(self._ore, table)
        self._configuration = getattr(self._ore, IN_MEMORY[version])(mapper, DAYS[horizon])
        self._portfolios = table["PortfolioID"].unique(maintain_order=True).to_list()
        self.rows = self._ore.Crif()
        self.rows.setCsvLoaderConfig(self._configuration)
        text = table.write_csv(separator="\t", quote_style="never")
        self.rows.fromCSVString(text)

    def calculate(self) -> Any:
        """SIMM of all portfolios and both sides, with every level; ORE's object."""
        return self._ore.SimmCalculator(self.rows, self._configuration)

    def figures(self, calculated: Any) -> Figures:
        """Every level of what was calculated."""
        ore = self._ore
        found: Figures = {}
        for side in SIDES:
            of_side = getattr(ore.SimmConfiguration, f"SimmSide_{side}")
            for portfolio in self._portfolios:
                details = ore.NettingSetDetails(portfolio)
                results = calculated.finalSimmResults(of_side, details).second
                found[portfolio, side] = dict(_levels(ore, results))
        return found


def _mapper(ore: Any, table: pl.DataFrame) -> Any:
    """The buckets of the names in the table."""
    mapper = ore.SimmBucketMapperBase()
    names = table.select("RiskType", "Qualifier", "Bucket").unique()
    for risk_type, qualifier, bucket in names.iter_rows():
        kind = risk_type.removeprefix("Risk_")
        if kind in _MAPPED:
            mapper.addMapping(getattr(ore.CrifRecord, f"RiskType_{kind}"), qualifier, bucket)
    return mapper


def _levels(ore: Any, results: Any) -> Iterator[tuple[Level, float]]:
    for product in (*PRODUCT_CLASSES, *_ADD_ONS, ALL):
        for risk in (*RISK_CLASSES, ALL):
            for kind in _TYPES:
                key = (
                    getattr(ore.CrifRecord, f"ProductClass_{product}"),
                    getattr(ore.SimmConfiguration, f"RiskClass_{risk}"),
                    getattr(ore.SimmConfiguration, f"MarginType_{kind}"),
                    ALL,
                )
                if results.has(*key) and (margin := results.get(*key)):
                    yield (product, risk, kind), margin


class Application:
    """ORE's application in a folder of its own, from the CRIF file `crif.csv` there to a report.

    `rates` are units of USD for one of other currencies: those of a calculation currency.
    """

    def __init__(
        self,
        folder: Path,
        version: str,
        horizon: str = "10d",
        currency: str = "USD",
        rates: dict[str, float] | None = None,
    ) -> None:
        self._ore = load()
        self.crif, self._output = folder / "crif.csv", folder / "output"
        self._output.mkdir()
        for name, text in _inputs(folder, version, horizon, currency, rates or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        self._parameters = folder / "ore.xml"

    def run(self) -> Path:
        """Margins of the file; where the report is. Raises `RuntimeError` where there is none."""
        report = self._output / "simm.csv"
        report.unlink(missing_ok=True)
        parameters = self._ore.Parameters()
        parameters.fromFile(str(self._parameters))
        self._ore.OREApp(parameters, False).run()
        if not report.is_file():
            raise RuntimeError(_last_alert(self._output / "log.txt"))
        return report

    def figures(self) -> Figures:
        """Every level of the last run's report."""
        found: Figures = {}
        table = pl.read_csv(self._output / "simm.csv", infer_schema=False)
        table = table.rename({"#Portfolio": "Portfolio"}, strict=False)
        # It also adds up portfolios, which is no margin of anyone.
        own_rows = table.filter(pl.col("Bucket") == ALL, pl.col("Portfolio") != ALL)
        for row in own_rows.iter_rows(named=True):
            level = (row["ProductClass"], row["RiskClass"], row["MarginType"])
            own = found.setdefault((row["Portfolio"], row["SimmSide"]), {})
            if margin := float(row["InitialMargin"]):
                own[level] = margin
        return found


def _last_alert(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8").splitlines()
        return next((line for line in reversed(lines) if line.startswith("ALERT")), "no report")
    return "no report, no log"


def _inputs(
    folder: Path, version: str, horizon: str, currency: str, rates: dict[str, float]
) -> dict[str, str]:
    """Files of a market that has nothing but rates, and of what is to be done."""
    pairs = [f"{name}{other}" for name in rates for other in ("USD",)]
    spots = "".join(f'<FxSpot pair="{p}">FX/{p[:3]}/{p[3:]}</FxSpot>' for p in pairs)
    quotes = [f"20260713 FX/RATE/{name}/USD {rate!r}" for name, rate in rates.items()]
    setup = {
        "asofDate": "2026-07-13",
        "inputPath": str(folder),
        "outputPath": str(folder / "output"),
        "logFile": "log.txt",
        "logMask": "1",
        "implyTodaysFixings": "N",
        "marketDataFile": "market.txt",
        "fixingDataFile": "",
        "curveConfigFile": "curveconfig.xml",
        "conventionsFile": "conventions.xml",
        "marketConfigFile": "todaysmarket.xml",
        "portfolioFile": "",
    }
    simm = {
        "active": "Y",
        "version": version,
        "crif": "crif.csv",
        "calculationCurrency": currency,
        "resultCurrency": "USD",
        "enforceIMRegulations": "Y",
        "mporDays": str(DAYS[horizon]),
    }
    markets = '<Configuration id="default"></Configuration>'
    if spots:
        markets += f'<FxSpots id="default">{spots}</FxSpots>'
    return {
        "ore.xml": f"<ORE><Setup>{_named(setup)}</Setup><Analytics>"
        f'<Analytic type="simm">{_named(simm)}</Analytic></Analytics></ORE>\n',
        "conventions.xml": "<Conventions></Conventions>\n",
        "curveconfig.xml": "<CurveConfiguration></CurveConfiguration>\n",
        "todaysmarket.xml": f"<TodaysMarket>{markets}</TodaysMarket>\n",
        "market.txt": "\n".join(quotes or ["20260713 FX/RATE/EUR/USD 1.1"]) + "\n",
    }


def _named(values: dict[str, str]) -> str:
    return "".join(f'<Parameter name="{name}">{text}</Parameter>' for name, text in values.items())
