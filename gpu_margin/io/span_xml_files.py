"""The bytes of a SPAN XML file as UTF-8, wherever it lies and however it is written."""

from __future__ import annotations

import codecs
import re
import zipfile
from pathlib import Path

from gpu_margin.failures import ConfigError
from gpu_margin.io import span_zips

# More cannot be told apart by the places that trees have.
_LARGEST = (1 << 31) - 1
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"^<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")


def read_text(path: Path) -> tuple[bytes, str]:
    """The document as UTF-8 without a mark in front, and the name of the file it is.

    In a zip it is the first member that ends in .spn or .xml. Raises `ConfigError`.
    """
    try:
        if zipfile.is_zipfile(path):
            data, name = _member(path)
        else:
            name = path.name
            data = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
            _check_size(path.stat().st_size, name)
    except (OSError, *span_zips.FAULTS) as error:
        raise ConfigError(f"span file: cannot read {path}: {error}") from error
    return _utf8(data, name), name


def _member(path: Path) -> tuple[bytes, str]:
    with zipfile.ZipFile(path) as archive:
        found, named = span_zips.members(archive, span_zips.XML)
        if not named:
            raise ConfigError(f"{path.name}: no .spn or .xml file in it")
        _check_size(found[0].file_size, found[0].filename)
        return archive.read(found[0]), Path(found[0].filename).name


def _check_size(size: int, name: str) -> None:
    if size > _LARGEST:
        raise ConfigError(f"{name}: larger than 2 GiB")


def _utf8(data: bytes, name: str) -> bytes:
    """Text of any encoding as UTF-8; one that says none and is not UTF-8 is taken as Latin-1."""
    mark = next((one for one in _MARKS if data.startswith(one[0])), None)
    declared = _DECLARED.match(data[:200])
    encoding = mark[1] if mark is not None else (declared[1].decode() if declared else "utf-8")
    try:
        plain = codecs.lookup(encoding).name in ("utf-8", "ascii")
    except LookupError as error:
        raise ConfigError(f"{name}: unknown encoding {encoding}") from error
    if plain and (mark is not None or declared or data.isascii()):
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(encoding).encode()
    except UnicodeError as error:
        if mark is None and declared is None:
            return data.decode("latin-1").encode()
        raise ConfigError(f"{name}: not text in {encoding}: {error}") from error
