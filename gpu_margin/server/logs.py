"""Structured logs: one line of JSON per record, with the request that it belongs to."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

# Set by whoever takes a request up; logs of any code below carry it.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_LOGGERS = ("gpu_margin", "uvicorn", "uvicorn.error")
# What every record has; the rest was given as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, message, request_id, whatever `extra` has, and the trace."""

    def format(self, record: logging.LogRecord) -> str:
        """One line: JSON escapes line ends, so that no message can forge another line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if found := request_id.get():
            line["request_id"] = found
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        extra = {name: value for name, value in vars(record).items() if name not in _OWN}
        return json.dumps({**line, **extra, **line}, default=str)


def configure(level: str = "INFO", stream: TextIO | None = None) -> logging.Handler:
    """Send the server's and uvicorn's logs to a stream (default stderr); returns the handler.

    uvicorn's access log stays off: it costs more than the requests that it tells of.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.setLevel(level)
    for name in ("gpu_margin", "uvicorn"):
        logging.getLogger(name).propagate = False
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    return handler
