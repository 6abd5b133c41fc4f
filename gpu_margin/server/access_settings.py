"""`[server.access]` of a run's TOML: whose keys and tokens are taken, and who sees what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpu_margin.settings import Settings

# What a key or a tenant may be called: it goes into headers, logs and names of clients.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$"

# Signed with a key that only the issuer has; what is signed with a shared secret is never taken.
Algorithm = Literal["RS256", "EdDSA"]


class JwtSettings(Settings):
    """`[server.access.jwt]`: tokens of an issuer, checked with the public keys in a file."""

    jwks: Path = Field(description="JSON file of the issuer's public keys (RFC 7517)")
    issuer: str | None = Field(default=None, min_length=1, description="the claim iss must be this")
    audience: str | list[str] | None = Field(
        default=None, min_length=1, description="the claim aud must have (one of) this"
    )
    algorithms: list[Algorithm] = Field(default=["RS256", "EdDSA"], min_length=1)
    leeway: float = Field(
        default=0.0, ge=0, le=300, strict=True, description="seconds that clocks may differ by"
    )
    scope_claim: str = Field(default="scope", min_length=1)
    tenant_claim: str = Field(default="tenant", min_length=1)
    tenant_required: bool | None = Field(
        default=None,
        strict=True,
        description="refuse a token without a tenant unless it has the scope admin; by default "
        "where there are tenants",
    )
    new_per_second: float = Field(
        default=1_000.0,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="tokens not seen before that are checked: signatures cost time",
    )


class TenantSettings(Settings):
    """`[server.access.tenants.NAME]`: the accounts that a tenant sees, and no others."""

    accounts: list[str] = Field(default=[], description="ids of accounts; * ? [abc] as in a shell")
    accounts_file: Path | None = Field(
        default=None, description="text file, one account_id a line, taken as it is"
    )

    @model_validator(mode="after")
    def _sees_something(self) -> Self:
        if not self.accounts and self.accounts_file is None:
            raise ValueError("sees no account; name accounts or accounts_file")
        return self


class AccessSettings(Settings):
    """`[server.access]`; without it, the server is for this machine only."""

    keys: Path | None = Field(default=None, description="file of `gpu-margin keys`")
    jwt: JwtSettings | None = None
    tenants: dict[Annotated[str, Field(pattern=NAME)], TenantSettings] = Field(default={})
    rate_per_second: float | None = Field(
        default=None,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="requests of a client that has no rate of its own; by default without limit",
    )
    burst: float | None = Field(
        default=None,
        ge=1,
        strict=True,
        allow_inf_nan=False,
        description="requests that may come at once; by default those of one second",
    )

    @model_validator(mode="after")
    def _admits_someone(self) -> Self:
        if self.keys is None and self.jwt is None:
            raise ValueError("nobody could be admitted; name a file of keys, or jwt")
        return self

    def resolved(self, folder: Path) -> AccessSettings:
        """The same with paths that count from `folder`."""
        jwt = self.jwt and self.jwt.model_copy(update={"jwks": folder / self.jwt.jwks})
        tenants = {
            name: tenant.model_copy(
                update={"accounts_file": tenant.accounts_file and folder / tenant.accounts_file}
            )
            for name, tenant in self.tenants.items()
        }
        keys = self.keys and folder / self.keys
        return self.model_copy(update={"keys": keys, "jwt": jwt, "tenants": tenants})
