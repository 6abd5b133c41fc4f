"""Questions: what waits together is answered together, kind by kind, each by its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gpu_margin.server.problems import Problem
from gpu_margin.server.reader import Reader


class Case:
    """A reader that doubles what it is asked, a batch at a time; it waits where it is held."""

    def __init__(self, depth: int = 100, most: int = 256, short: tuple[str, ...] = ()) -> None:
        self.batches: list[tuple[str, list[Any]]] = []
        self.seen: list[tuple[str, int, float, float]] = []
        self.go, self.busy = threading.Event(), threading.Event()
        self.go.set()
        kinds = {"double": self._double, "other": self._other, "broken": self._broken}
        told = self.seen.append
        self.reader = Reader(
            kinds, depth, most, seen=lambda *one: told(one), short=frozenset(short)
        )

    def _double(self, asked: list[Any]) -> list[Any]:
        self.busy.set()
        assert self.go.wait(30)
        self.batches.append(("double", asked))
        return [one if isinstance(one, Exception) else 2 * one for one in asked]

    def _other(self, asked: list[Any]) -> list[Any]:
        self.batches.append(("other", asked))
        return [-one for one in asked]

    def _broken(self, asked: list[Any]) -> list[Any]:
        self.batches.append(("broken", asked))
        raise ValueError("oh no")

    async def hold(self) -> asyncio.Future[Any]:
        """The reader is busy with a first question (0) from now on, until `go`."""
        self.go.clear()
        first = self.reader.ask("double", 0)
        assert await asyncio.to_thread(self.busy.wait, 30)
        return first


def run(work: Callable[[Case], Awaitable[Any]], **more: Any) -> Case:
    """Do it with a reader that is started before, and stopped behind."""
    case = Case(**more)

    async def main() -> None:
        case.reader.start()
        try:
            await asyncio.wait_for(work(case), 60)
        finally:
            case.go.set()
            case.reader.stop()

    asyncio.run(main())
    return case


def test_what_queued_goes_next_as_one_batch_in_its_order() -> None:
    async def work(case: Case) -> None:
        first = await case.hold()
        futures = [case.reader.ask("double", number) for number in range(1, 50)]
        assert case.reader.waiting == 49
        case.go.set()
        assert await asyncio.gather(first, *futures) == [2 * number for number in range(50)]

    case = run(work)
    assert case.batches == [("double", [0]), ("double", list(range(1, 50)))]
    assert [(kind, size) for kind, size, *_ in case.seen] == [("double", 1), ("double", 49)]
    assert all(waited >= 0 and took >= 0 for *_, waited, took in case.seen)


def test_batches_are_of_one_kind_and_the_one_that_waits_longest_is_first() -> None:
    async def work(case: Case) -> None:
        await case.hold()
        futures = [
            case.reader.ask(kind, number)
            for number, kind in enumerate(["other", "double", "other", "double", "other"], 1)
        ]
        case.go.set()
        assert await asyncio.gather(*futures) == [-1, 4, -3, 8, -5]

    assert run(work).batches[1:] == [("other", [1, 3, 5]), ("double", [2, 4])]


def test_no_batch_is_larger_than_it_may_be() -> None:
    async def work(case: Case) -> None:
        await case.hold()
        futures = [case.reader.ask("double", number) for number in range(1, 8)]
        case.go.set()
        assert await asyncio.gather(*futures) == [2 * number for number in range(1, 8)]

    found = run(work, most=3).batches[1:]
    assert [batch for _, batch in found] == [[1, 2, 3], [4, 5, 6], [7]]


def test_an_exception_fails_its_batch_and_no_other() -> None:
    async def work(case: Case) -> None:
        await case.hold()
        bad = [case.reader.ask("broken", number) for number in range(3)]
        good = case.reader.ask("double", 4)
        case.go.set()
        for one in bad:
            with pytest.raises(ValueError, match="oh no"):
                await one
        assert await good == 8 and await case.reader.ask("double", 5) == 10

    run(work)


def test_an_answer_that_is_an_exception_is_raised_to_its_own_asker() -> None:
    async def work(case: Case) -> None:
        await case.hold()
        bad, good = case.reader.ask("double", KeyError("me")), case.reader.ask("double", 3)
        case.go.set()
        with pytest.raises(KeyError, match="me"):
            await bad
        assert await good == 6

    run(work)


def test_who_has_gone_is_passed_over() -> None:
    async def work(case: Case) -> None:
        await case.hold()
        gone, other = case.reader.ask("double", 1), case.reader.ask("double", 2)
        gone.cancel()
        case.go.set()
        assert await other == 4 and gone.cancelled()

    run(work)


def test_beyond_its_depth_it_refuses_at_once_and_answers_the_others() -> None:
    async def work(case: Case) -> None:
        await case.hold()
        futures = [case.reader.ask("double", number) for number in (1, 2)]
        with pytest.raises(Problem) as found:
            case.reader.ask("double", 3)
        assert found.value.status == 503 and "Retry-After" in found.value.headers
        case.go.set()
        assert await asyncio.gather(*futures) == [2, 4]
        assert await case.reader.ask("double", 3) == 6

    run(work, depth=2)


def test_before_the_start_and_behind_the_end_it_refuses() -> None:
    reader = Reader({}, 10)
    with pytest.raises(Problem, match="starts or stops"):
        reader.ask("double", 1)

    async def work(case: Case) -> None:
        await case.hold()
        future = case.reader.ask("double", 1)
        stopping = asyncio.create_task(asyncio.to_thread(case.reader.stop))
        await asyncio.sleep(0.05)
        with pytest.raises(Problem, match="starts or stops"):
            case.reader.ask("double", 2)
        case.go.set()
        await stopping
        assert await future == 2  # what was queued is answered

    run(work)


def test_a_question_is_answered_soon_though_the_reader_sleeps() -> None:
    async def work(case: Case) -> None:
        for number in range(5):
            await asyncio.sleep(0.03)
            assert await asyncio.wait_for(case.reader.ask("double", number), 5) == 2 * number

    run(work)


# ---------------------------------------------------------------- short questions


def test_short_questions_of_a_round_of_the_loop_are_one_batch_by_kind() -> None:
    async def work(case: Case) -> None:
        kinds = ["double", "other", "double"]
        futures = [case.reader.ask(kind, number) for number, kind in enumerate(kinds, 1)]
        assert not case.batches  # not at once: more may come
        assert await asyncio.gather(*futures) == [2, -2, 6]
        assert await case.reader.ask("double", 9) == 18

    case = run(work, short=("double", "other"))
    assert case.batches == [("double", [1, 3]), ("other", [2]), ("double", [9])]
    assert [(kind, size) for kind, size, *_ in case.seen] == [
        ("double", 2),
        ("other", 1),
        ("double", 1),
    ]


def test_short_questions_do_not_wait_for_the_thread() -> None:
    async def work(case: Case) -> None:
        first = await case.hold()
        assert await case.reader.ask("other", 1) == -1
        assert not first.done()
        case.go.set()
        assert await first == 0

    run(work, short=("other",))


def test_no_batch_of_short_questions_is_larger_than_it_may_be_and_each_fails_alone() -> None:
    async def work(case: Case) -> None:
        asked = [1, KeyError("me"), 3, 4, 5]
        futures = [case.reader.ask("double", one) for one in asked]
        broken = case.reader.ask("broken", 0)
        futures[4].cancel()
        found = await asyncio.gather(*futures[:4], return_exceptions=True)
        assert found[0] == 2 and found[2:] == [6, 8] and isinstance(found[1], KeyError)
        with pytest.raises(ValueError, match="oh no"):
            await broken

    case = run(work, most=2, short=("double", "broken"))
    assert [len(batch) for kind, batch in case.batches if kind == "double"] == [2, 2, 1]
