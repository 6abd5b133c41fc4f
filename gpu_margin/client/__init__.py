"""A client of the risk server, for programs that wait (`Client`) and for asyncio (`AsyncClient`).

Ten lines that ask, trade and look again:

    import os
    from gpu_margin.client import Client

    with Client("http://127.0.0.1:8080", key=os.environ.get("GPU_MARGIN_KEY")) as client:
        client.wait_until_ready()
        legs = {"SP500-2024-03": 5, "SP500-2024-03-C5000": -10}
        print(client.whatif("covered-call-000003", legs)["models"])
        order = client.check_order("covered-call-000003", "SP500-2024-03", 5)
        if order["action"] == "accept":
            fill = {"fill_id": "t-1", "account_id": "covered-call-000003"}
            client.fills([{**fill, "instrument_id": "SP500-2024-03", "quantity": 5, "price": 5e3}])

What the server refuses is a `ProblemError`. What it sheds (429, 503) and what is lost with its
connection is asked again where that is safe, until `deadline`; then the problem is raised, or
`Unanswered`. Fills and marks are numbered by the client and carry a key each, so that one that is
sent twice is booked once.

It needs httpx and polars, and nothing of the server.
"""

from __future__ import annotations

from gpu_margin.client.asynchronous import AsyncClient
from gpu_margin.client.events import Event
from gpu_margin.client.problems import ProblemError, Unanswered
from gpu_margin.client.waiting import Client

__all__ = ["AsyncClient", "Client", "Event", "ProblemError", "Unanswered"]
