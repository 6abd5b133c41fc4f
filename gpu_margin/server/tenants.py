"""Which accounts a tenant sees."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate
from functools import lru_cache

from gpu_margin.failures import ConfigError
from gpu_margin.server.access_settings import TenantSettings
from gpu_margin.server.principal import Principal
from gpu_margin.server.watched import Watched

_REMEMBERED = 100_000
# Longer ids are looked at every time: remembered, they would let a client fill the memory.
_LONGEST = 200


class Tenants:
    """The accounts of each tenant; a tenant that is not configured sees none."""

    def __init__(self, settings: Mapping[str, TenantSettings]) -> None:
        self._patterns = {
            name: re.compile("|".join(translate(glob) for glob in tenant.accounts) or r"(?!)")
            for name, tenant in settings.items()
        }
        self._files = {
            name: Watched(tenant.accounts_file, _account_ids)
            for name, tenant in settings.items()
            if tenant.accounts_file is not None
        }
        self._remembered = lru_cache(_REMEMBERED)(self._matches)

    def may_see(self, principal: Principal, account_id: str) -> bool:
        """Whether the account is the principal's to see; everything is, without a tenant."""
        tenant = principal.tenant
        if tenant is None:
            return True
        if len(account_id) > _LONGEST:
            return self._matches(tenant, account_id)
        return self._remembered(tenant, account_id)

    def refresh(self) -> None:
        """Read files of accounts again that have changed."""
        changed = [file.refresh() for file in self._files.values()]
        if any(changed):
            self._remembered.cache_clear()

    def faults(self) -> list[str]:
        """What is wrong with files that changed."""
        return [file.fault for file in self._files.values() if file.fault is not None]

    def _matches(self, tenant: str, account_id: str) -> bool:
        pattern = self._patterns.get(tenant)
        if pattern is None:
            return False
        file = self._files.get(tenant)
        return pattern.match(account_id) is not None or (
            file is not None and account_id in file.value
        )


def _account_ids(content: bytes) -> frozenset[str]:
    """One id a line; empty lines are none."""
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8: {error}") from error
    return frozenset(line for line in (line.rstrip("\r") for line in lines) if line)
