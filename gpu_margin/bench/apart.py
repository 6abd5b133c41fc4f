"""A benchmark in a process of its own, so that it can be stopped at any moment.

Compiled code may keep a process from hearing a signal for minutes. The process that measures writes
what it has after every row; the one that started it draws the progress, and on Ctrl-C or SIGTERM
ends the other and takes what is written. So it also does if the other dies, of lack of memory say.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_margin.bench import files
from gpu_margin.bench.harness import Progress, run_bench
from gpu_margin.bench.request import Request
from gpu_margin.bench.result import BenchResult

# What stops a run in good order; where a signal is ignored (nohup), it stays so.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MEASURE = "import sys; from gpu_margin.bench.apart import measure; measure(sys.argv[1])"
# Seconds that a process has to end before it is killed.
_GRACE = 5.0


@dataclass(frozen=True)
class Ended:
    """How a run ended: `code` 0, or 128 + the signal that stopped it, or that of its process.

    `result` is None if it ended before anything was known; `written` are the files in its folder.
    """

    result: BenchResult | None
    written: tuple[Path, ...]
    code: int


class _Stopped(BaseException):
    """A signal arrived."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_apart(request: Request, folder: Path | None, progress: Progress) -> Ended:
    """Run the benchmark, its files in `folder`; returns also if a signal stops it."""
    with (
        _Signals() as signals,
        # The scratch of the process that measures: it cannot tidy up after itself if it is killed.
        tempfile.TemporaryDirectory(
            prefix="gpu-margin-bench-", ignore_cleanup_errors=True
        ) as scratch,
    ):
        place = folder or Path(scratch)
        told = {**request.to_dict(), "folder": str(place), "pages": folder is not None}
        try:
            with signals.heard():
                code = _watch(told, scratch, progress)
        except _Stopped as stop:
            code = -stop.number
        return _ended(place, request.created, code, pages=folder is not None)


def _ended(folder: Path, created: str, code: int, pages: bool) -> Ended:
    """What the process left, marked as stopped where it did not come to its end."""
    figures, picture = files.paths(folder, created)
    for leftover in folder.glob(f".{figures.stem}.*.tmp"):
        leftover.unlink(missing_ok=True)
    exit_code = 128 - code if code < 0 else code
    if not figures.exists():
        return Ended(None, (), exit_code)
    result = files.read(figures)
    if not result.finished:
        result = replace(result, stopped=_ending(code))
    if code and pages:
        files.write(result, folder)
    return Ended(result, (figures, picture) if pages else (), exit_code)


def measure(told: str) -> None:
    """What the process that measures does: `told` is a request as JSON, with its folder.

    Progress goes to standard output, a line of JSON per step; what libraries print there goes to
    standard error.
    """
    plain = json.loads(told)
    folder, pages = Path(plain.pop("folder")), plain.pop("pages")
    asked = Request.from_dict(plain)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as steps:
        os.dup2(2, 1)

        def report(*step: Any) -> None:
            steps.write(json.dumps(step) + "\n")
            steps.flush()

        run_bench(
            asked.workloads,
            asked.sizes,
            asked.backends,
            asked.rounds,
            report,
            precisions=asked.precisions,
            patience=asked.patience,
            limit=asked.limit,
            keep=keeper(folder, pages),
            command=asked.command,
            created=asked.created,
        )


def keeper(folder: Path, pages: bool) -> Callable[[BenchResult], None]:
    """What writes a result so far: figures always, the page after every whole case.

    Both are done before the next contender is timed.
    """
    drawn = -1

    def keep(result: BenchResult) -> None:
        nonlocal drawn
        if pages and (result.finished or result.done > drawn >= 0):
            files.write(result, folder)
        else:
            files.write_figures(result, folder)
        drawn = result.done

    return keep


def _watch(told: dict[str, Any], scratch: str, progress: Progress) -> int:
    """The exit code of the process that measures (minus the signal that killed it)."""
    with subprocess.Popen(
        [sys.executable, "-c", _MEASURE, json.dumps(told)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": scratch},
        # Ctrl-C in a terminal reaches all of a session: this one is told by us.
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                progress(*json.loads(line))
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[str]) -> None:
    """End it and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


class _Signals:
    """Signals that stop a run: the first is raised while they are heard, the others do nothing."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._arrived = 0
        self._heard = False

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():  # no other can have them
            for one in _SIGNALS:
                if signal.getsignal(one) is not signal.SIG_IGN:
                    self._before[one] = signal.signal(one, self._arrive)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Raises `_Stopped` here for a signal."""
        self._heard = True
        try:
            if self._arrived:
                raise _Stopped(self._arrived)
            yield
        finally:
            self._heard = False

    def _arrive(self, number: int, frame: Any) -> None:
        first, self._arrived = not self._arrived, self._arrived or number
        if first and self._heard:
            raise _Stopped(number)


def _ending(code: int) -> str:
    """Why a process did not come to its end, in words."""
    if code >= 0:
        return f"by a failure of its process, exit code {code}"
    name = signal.Signals(-code).name
    meanings = {"SIGINT": "Ctrl-C", "SIGKILL": "SIGKILL (perhaps there was too little memory)"}
    return f"by {meanings.get(name, name)}"
