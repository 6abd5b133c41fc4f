"""Which reader a SPAN risk parameter file is for: told by what is in it, not by its name."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gpu_margin.failures import ConfigError
from gpu_margin.io import span_zips
from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.io.span_xml import read_spn
from gpu_margin.span_tables import SpanTables

ACCOUNT_CLASSES = ("core", "reserve")

# How files write reserve.
_RESERVE = ("RESRV", "RESERVE")
# Bytes that tell a format, and where a header of a PA2 file says which.
_HEAD, _FORMAT = 256, slice(35, 37)
_WANTED = "give CME's PA2 (expanded unpacked, .pa2) or SPAN XML (.spn), plain or zipped"
_OTHERS = {
    b"UP": "the Paris expanded format (UP), which packs its figures",
    b"U ": "an older expanded format",
    b"P ": "a packed format",
}


def read_span(
    path: str | Path, account_class: str = "core", only: tuple[str, bool] | None = None
) -> SpanTables:
    """The tables of a risk parameter file, plain or zipped.

    `account_class` is core or reserve: XML has both, a PA2 file is of one. `only` is an account
    type and whether initial: XML is then read for these alone (see `read_spn`). Raises
    `ConfigError` where there is no such file, or it is of another format or class.
    """
    path = Path(path)
    if account_class not in ACCOUNT_CLASSES:
        raise ConfigError(f"account_class: {account_class!r} is none of core, reserve")
    if _is_xml(path):
        if only is None:
            return read_spn(path, account_class=account_class)
        return read_spn(path, account_class, account_type=only[0], initial=only[1])
    if only is not None:
        raise ConfigError(f"{path}: is PA2, which has one set of rates: read it for all accounts")
    tables = read_pa2(path)
    said = tables.facts.get("account_class", "")
    own = "reserve" if said.upper() in _RESERVE else "core"
    if own != account_class:
        raise ConfigError(
            f"{path}: is for the account class {own}, not {account_class}: a PA2 file is of one "
            "class; name that, or the exchange's file of the other"
        )
    return tables


def _is_xml(path: Path) -> bool:
    """Whether it is XML; False for PA2, `ConfigError` for what is neither."""
    head = _head(path)
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff"))  # text of two bytes a letter: XML only
    if marked or head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return True
    if head[:2] == b"0 ":
        kind = head[_FORMAT]
        if kind == b"U2":
            return False
        found = _OTHERS.get(kind, f"a format {kind.decode('ascii', 'replace')!r}")
    elif head[:2] == b"1 ":
        found = "the standard format (lines of 80 characters)"
    elif head[:2] == b"\x1f\x8b":
        found = "compressed with gzip: unpack it first"
    else:
        found = "no SPAN risk parameter file" if head else "empty"
    raise ConfigError(f"{path}: is {found}; {_WANTED}")


def _head(path: Path) -> bytes:
    """The first bytes, of a zip archive those of the member that is meant."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if not head.startswith(b"PK"):
            return head
        with zipfile.ZipFile(path) as archive:
            found, _ = span_zips.members(archive, (*span_zips.PA2, *span_zips.XML))
            if not found:
                raise ConfigError(f"{path}: the archive is empty; {_WANTED}")
            with archive.open(found[0].filename) as stream:
                return stream.read(_HEAD)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except span_zips.FAULTS as error:
        raise ConfigError(f"{path}: the archive cannot be read: {error}") from error
