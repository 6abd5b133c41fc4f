"""A finished run becomes a folder: tables, report, manifest."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from gpu_margin import report
from gpu_margin.io.outputs import check_folder, write_manifest, write_report, write_tables
from gpu_margin.result import Run


def save(run: Run, folder: str | Path, *, overwrite: bool = False) -> Run:
    """Write margins, components, sets, groups, failures, report and manifest into the folder.

    Raises `ConfigError` where the folder is not empty, unless it may be overwritten. Returns the
    run with the seconds of writing and of the report in its manifest.
    """
    folder = Path(folder)
    check_folder(folder, overwrite)
    start = time.perf_counter()
    write_tables(run, folder)
    written = time.perf_counter()
    write_report(report.render(run), folder)
    finished = time.perf_counter()
    stages = {"write": round(written - start, 6), "report": round(finished - written, 6)}
    seconds = {**run.manifest["seconds"], **stages}
    timed = replace(run, manifest={**run.manifest, "seconds": seconds})
    write_manifest(timed.manifest, folder)
    return timed
