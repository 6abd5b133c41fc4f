"""Synthetic exchanges as SPAN files of real size: PA2 or SPAN XML, and accounts on them.

    python benchmarks/span_book.py --contracts 600000 --format pa2 --out exchange.pa2
    python benchmarks/span_book.py --contracts 127500 --format xml --out exchange.spn
    python benchmarks/span_book.py --contracts 600000 --positions positions.parquet

The same seed and sizes give the same exchange, byte for byte, in either format. It has 2,000
combined commodities: months and weeks with day codes, options on futures and on the thing itself,
arrays by Black-76 of five and of eight digits, prices in decimals and in fractions, prices that are
missing or of high precision, risk exponents, three currencies, combinations; tiers for scanning and
for spreads, spreads of months and of tiers everywhere, delivery, minima of short options; and
spreads between commodities in chains and with three legs, of methods 01, 02, 20 and (most of them
super) 04. 127,500 contracts are 57 MB of XML.
"""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import span_contracts
import span_pa2_text
import span_positions
from span_xml_contracts import Writer


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; ends the program where it is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contracts", type=int, default=600_000, help="of the exchange")
    parser.add_argument("--commodities", type=int, default=2_000, help="combined commodities")
    parser.add_argument("--spreads", type=int, default=4_000, help="between commodities")
    parser.add_argument("--format", choices=["pa2", "xml"], help="default: by the suffix of --out")
    parser.add_argument("--out", type=Path, help="the file; .zip packs it")
    parser.add_argument("--positions", type=Path, help="file of positions: .parquet or .csv")
    parser.add_argument("--accounts", type=int, default=100_000, help="of the positions")
    parser.add_argument("--legs", type=int, default=10, help="contracts of an account")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(words)
    if asked.out is None and asked.positions is None:
        parser.error("nothing to write: --out FILE, --positions FILE or both")
    if not 0 < asked.spreads < 10_000 or not 1 < asked.commodities < 10_000:
        parser.error("--spreads and --commodities are below 10,000: a file has four digits of each")
    if asked.positions is not None and asked.positions.suffix not in (".parquet", ".csv"):
        parser.error(f"--positions {asked.positions}: is neither .parquet nor .csv")
    if asked.accounts < 1 or asked.legs < 1:
        parser.error("--accounts and --legs are at least 1")
    if asked.format is None:
        name = "" if asked.out is None else asked.out.name.lower().removesuffix(".zip")
        asked.format = "xml" if name.endswith((".spn", ".xml")) else "pa2"
    return asked


@contextmanager
def opened(path: Path, kind: str) -> Iterator[BinaryIO]:
    """A file to write, or the only member of an archive."""
    if path.suffix != ".zip":
        with path.open("wb") as plain:
            yield plain
        return
    member = zipfile.ZipInfo(path.stem if Path(path.stem).suffix else f"{path.stem}.{kind}")
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive, archive.open(member, "w", force_zip64=True) as one:
        yield cast(BinaryIO, one)


def progress(total: int, show: Callable[[str], None]) -> Callable[[int], None]:
    """Says how many contracts are written, a few times."""
    step, said = max(total // 10, 1), [0]

    def told(done: int) -> None:
        if done // step > said[0] or done == total:
            said[0] = done // step
            show(f"{done:,} of {total:,} contracts")

    return told


def write(exchange: span_contracts.Exchange, path: Path, kind: str) -> None:
    """The exchange as a file of a kind, pa2 or xml."""
    told = progress(len(exchange), say)
    with opened(path, "pa2" if kind == "pa2" else "spn") as out:
        if kind == "pa2":
            span_pa2_text.write(exchange, out, told)
        else:
            Writer(exchange).write(out, told)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Write: 0, or 2 where no such exchange can be drawn."""
    asked, start = arguments(words), time.perf_counter()
    try:
        exchange = span_contracts.draw(
            asked.contracts, asked.commodities, asked.spreads, asked.seed
        )
    except ValueError as error:
        say(f"span_book: {error}")
        return 2
    if asked.out is not None:
        write(exchange, asked.out, asked.format)
        say(f"written: {asked.out}, {asked.out.stat().st_size / 1e6:.1f} MB")
    if asked.positions is not None:
        found = span_positions.table(exchange, asked.accounts, asked.legs, asked.seed)
        if asked.positions.suffix == ".csv":
            found.write_csv(asked.positions)
        else:
            found.write_parquet(asked.positions)
        say(f"written: {asked.positions}, {len(found):,} positions")
    say(f"{time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
