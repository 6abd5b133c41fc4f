"""`[server]` of a run's TOML: limits, where the state is kept, who may ask."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from gpu_margin.config import Config
from gpu_margin.failures import ConfigError
from gpu_margin.server.access_settings import AccessSettings
from gpu_margin.server.kafka_feed import KafkaSettings
from gpu_margin.server.log import LogSettings
from gpu_margin.server.mark_times import AHEAD_SECONDS
from gpu_margin.server.tls import TlsSettings
from gpu_margin.settings import Settings


class Limits(Settings):
    """What a client may ask for; beyond it the answer is 413, 422, 429 or 503."""

    max_body_bytes: int = Field(default=32 << 20, ge=1024, strict=True)
    max_legs: int = Field(default=1_000, ge=1, strict=True, description="trades of one what-if")
    max_batch: int = Field(
        default=20_000, ge=1, strict=True, description="what-ifs, fills or marks of one request"
    )
    queue_depth: int = Field(
        default=1_024, ge=1, strict=True, description="requests that may be under way at once"
    )
    mark_ahead_seconds: float = Field(
        default=AHEAD_SECONDS,
        ge=0,
        strict=True,
        allow_inf_nan=False,
        description="marks with a time further ahead of the server's clock are refused, "
        "those of Kafka and of --replay, too",
    )


class ServerSettings(Settings):
    """Settings of `gpu-margin serve`; relative paths count from the TOML file."""

    state: Path = Field(
        default=Path("server-state"), description="folder of the log, snapshots and audit log"
    )
    stale_seconds: float = Field(
        default=60.0,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="answers say of an older mark that it is stale; [gate] has its own",
    )
    snapshot_rows: int = Field(
        default=1_000_000, ge=1, strict=True, description="fills and marks between snapshots"
    )
    keep_snapshots: int = Field(default=2, ge=1, strict=True)
    limits: Limits = Limits()
    access: AccessSettings | None = None
    tls: TlsSettings | None = None
    log: LogSettings = LogSettings()
    kafka: KafkaSettings | None = None

    def resolved(self, folder: Path) -> ServerSettings:
        """The same with paths that count from `folder`."""
        return self.model_copy(
            update={
                "state": folder / self.state,
                "access": self.access and self.access.resolved(folder),
                "tls": self.tls and self.tls.resolved(folder),
            }
        )


def server_settings(config: Config) -> ServerSettings:
    """The settings of the server; `ConfigError` says every key that is wrong."""
    try:
        return ServerSettings.model_validate(config.server or {})
    except ValidationError as error:
        raise ConfigError(_explained(error)) from error


def _explained(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join(["server", *(str(part) for part in fault["loc"])])
        lines.append(f"{place}: {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)
