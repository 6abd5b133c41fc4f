"""Zips that exchanges' files come in: which member is meant, and what may be wrong with them."""

from __future__ import annotations

import zipfile
import zlib

# How names of members end that are of a format.
PA2, XML = (".pa2",), (".spn", ".xml")
# What reading of a zip raises beside `OSError`: it is broken, cut off, locked or packed otherwise.
FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


def members(
    archive: zipfile.ZipFile, endings: tuple[str, ...]
) -> tuple[list[zipfile.ZipInfo], bool]:
    """The files whose names end so, in whatever case, and True; all files and False without any."""
    files = [one for one in archive.infolist() if not one.is_dir()]
    named = [one for one in files if one.filename.lower().endswith(endings)]
    return named or files, bool(named)
