"""Without authentication the server is for programs of this machine, not for any web page.

A page of anybody's may send requests to this machine (cross-origin), and with a name that is made
to point here (DNS rebinding) it may read the answers too. A browser says by Host and Origin, which
a page cannot set, whom it means and where the page is from.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from gpu_margin.server.problems import Problem
from gpu_margin.server.tls import is_loopback

# What they cannot change, a page may send here; it does not get to read the answer.
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_sender(
    method: str, headers: Iterable[tuple[bytes, bytes]], server: tuple[str, object] | None
) -> None:
    """`Problem` 403 where a page of elsewhere asks; `server` is the address that was connected to.

    Whoever listens beyond this machine (--insecure) may do so under any name.
    """
    hosts, origins, sites = (
        [value.decode("latin-1") for name, value in headers if name == wanted]
        for wanted in (b"host", b"origin", b"sec-fetch-site")
    )
    here = server is not None and is_loopback(server[0])
    if here and not (len(hosts) == 1 and is_loopback(_name(f"//{hosts[0]}"))):
        raise _refused("the header Host is no name of this machine", "Host")
    if method in _READS:
        return
    foreign = any(site not in ("same-origin", "none") for site in sites)
    if not sites:
        foreign = any(_place(origin) != hosts[-1:] for origin in origins)
    if foreign:
        raise _refused("a page of another origin may not send this", "Origin")


def _name(url: str) -> str:
    """The host of an address; none where it cannot be read."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _place(origin: str) -> list[str]:
    """Host and port of an origin, as the header Host has them."""
    try:
        return [urlsplit(origin).netloc]
    except ValueError:
        return []


def _refused(detail: str, field: str) -> Problem:
    return Problem(
        403,
        "foreign-page",
        f"{detail}, and this server asks for no key",
        field=field,
        way_out="ask 127.0.0.1 itself, or give the server [server.access] and send a key",
    )
