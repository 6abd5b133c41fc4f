"""Which accounts a tenant sees, and how often a client may ask."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from access_case import Case, Clock, bearer, claims, token
from hypothesis import given
from hypothesis import strategies as st

from gpu_margin.server.access import SCOPES, Access, Principal
from gpu_margin.server.access_settings import AccessSettings
from gpu_margin.server.keys import new_key
from gpu_margin.server.rates import Rates
from gpu_margin.server.tenants import Tenants

# ---------------------------------------------------------------- tenants


def tenants(**accounts: list[str]) -> Tenants:
    settings = {name: {"accounts": globs} for name, globs in accounts.items()}
    return Tenants(AccessSettings.model_validate({"keys": "k", "tenants": settings}).tenants)


def of(tenant: str | None) -> Principal:
    return Principal("x", SCOPES, tenant)


def test_a_tenant_sees_its_accounts_only() -> None:
    seen = tenants(desk=["desk-*", "x[12]", "one"], all=["*"], none=[""])
    for _ in range(2):  # remembered, too
        for account in ("desk-", "desk-1", "desk-\n", "x1", "x2", "one"):
            assert seen.may_see(of("desk"), account)
        for account in ("", "desk", "Desk-1", " desk-1", "x3", "x12", "one ", "ones", "one\n"):
            assert not seen.may_see(of("desk"), account)
            assert seen.may_see(of("all"), account) and seen.may_see(of(None), account)
            assert not seen.may_see(of("nobody"), account)
        assert not seen.may_see(of("none"), "a")
    remembered, long = seen._remembered.cache_info().currsize, "desk-" + "x" * 10_000
    assert seen.may_see(of("desk"), long) and not seen.may_see(of("desk"), long[1:])
    assert seen._remembered.cache_info().currsize == remembered


def test_accounts_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "accounts.txt"
    file.write_bytes("a*\r\nb[1]\n\nö\n".encode())
    clock = Clock()
    given = {"keys": "keys.toml", "tenants": {"desk": {"accounts_file": "accounts.txt"}}}
    settings = AccessSettings.model_validate(given).resolved(tmp_path)
    _, key = new_key(tmp_path / "keys.toml", "desk", scopes=["read"], tenant="desk")
    access = Access(settings, clock=clock)
    desk = access.principal(bearer(key))
    assert [access.may_see(desk, one) for one in ("a*", "b[1]", "ö")] == [True] * 3
    assert [access.may_see(desk, one) for one in ("ab", "b1", "", "a*\r", "c")] == [False] * 5
    file.write_text("c\n")
    clock.now += 1.0
    access.principal(bearer(key))
    assert access.may_see(desk, "c") and not access.may_see(desk, "a*")
    file.write_bytes(b"\xff")
    clock.now += 1.0
    access.principal(bearer(key))
    assert access.may_see(desk, "c") and "not UTF-8" in access.faults()[0]


# ---------------------------------------------------------------- rates


def test_a_bucket_fills_at_its_rate() -> None:
    clock = Clock(100.0)
    rates = Rates(clock)
    take: Callable[..., float] = lambda cost=1.0: rates.wait("a", 10.0, 5.0, cost)  # noqa: E731
    assert [take() for _ in range(5)] == [0.0] * 5
    assert take() == pytest.approx(0.1) and take() == pytest.approx(0.1)
    clock.now += 0.1
    assert take() == 0.0 and take() == pytest.approx(0.1)
    clock.now += 0.3
    assert take(2.0) == 0.0 and take(2.0) == pytest.approx(0.1)
    clock.now += 1000.0
    assert [take() for _ in range(5)] == [0.0] * 5 and take() > 0.0
    assert rates.wait("b", 10.0, 5.0) == 0.0


def test_a_full_bucket_takes_any_cost_and_is_in_debt_afterwards() -> None:
    clock = Clock(0.0)
    rates = Rates(clock)
    assert rates.wait("a", 10.0, 5.0, 100.0) == 0.0
    assert rates.wait("a", 10.0, 5.0, 1.0) == pytest.approx(9.6)
    assert rates.wait("a", 10.0, 5.0, 100.0) == pytest.approx(10.0)
    clock.now += 9.6
    assert rates.wait("a", 10.0, 5.0, 1.0) == 0.0


@given(
    st.floats(0.01, 1e5),
    st.floats(1, 1e4),
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 50)), max_size=60),
)
def test_no_client_gets_more_than_its_rate(
    rate: float, burst: float, asked: list[tuple[float, int]]
) -> None:
    """Beside a bucket counted in tokens; and who waits as told is admitted."""
    clock = Clock(1.7e9)
    rates, tokens = Rates(clock), burst
    for pause, cost in asked:
        clock.now += pause
        tokens = min(burst, tokens + pause * rate)
        wait = rates.wait("a", rate, burst, cost)
        need = min(cost, burst)
        if wait:
            assert wait == pytest.approx((need - tokens) / rate, rel=1e-6, abs=1e-5)
            clock.now += wait
            assert rates.wait("a", rate, burst, cost) == 0.0
            tokens += wait * rate
        else:
            assert tokens >= need - 1e-5 * max(rate, 1.0)
        tokens -= cost


def test_full_buckets_are_forgotten() -> None:
    clock = Clock(0.0)
    rates = Rates(clock, keep=100)
    for n in range(10_000):
        clock.now += 0.1
        assert rates.wait(str(n), 1.0, 1.0) == 0.0
    assert len(rates._full_at) <= 200


def test_a_key_has_its_own_rate_or_the_servers(tmp_path: Path) -> None:
    case = Case(tmp_path, rate_per_second=2.0, burst=3.0)
    _, own = new_key(case.file, "own", scopes=["read"], rate=5.0)
    _, both = new_key(case.file, "both", scopes=["read"], rate=5.0, burst=1.0)
    _, again = new_key(case.file, "both", scopes=["read"], rate=5.0, burst=1.0)
    case.clock.now += 1.0
    admitted = {}
    for name, key in (("desk", case.key), ("own", own), ("both", both)):
        principal = case.access.principal(bearer(key))
        admitted[name] = next(n for n in count() if case.access.admit(principal) > 0.0)
    assert admitted == {"desk": 3, "own": 5, "both": 1}
    # A second key of a client is no second bucket.
    assert case.access.admit(case.access.principal(bearer(again))) == pytest.approx(0.2)
    jwt = case.access.principal(bearer(token()))
    assert [case.access.admit(jwt, 2) > 0 for _ in range(3)] == [False, True, True]


def test_a_claim_does_not_set_the_rate(tmp_path: Path) -> None:
    case = Case(tmp_path)
    sent = token(rate=1e9, burst=1e9)
    assert json.loads(base64.urlsafe_b64decode(sent.split(b".")[1] + b"=="))["rate"] == 1e9
    principal = case.access.principal(bearer(sent))
    assert (principal.rate, principal.burst) == (None, None) and claims()["sub"] == "alice"
