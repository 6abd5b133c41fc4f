"""Taking turns: who asks goes first, several at a time, and nobody waits for ever."""

from __future__ import annotations

import threading

from gpu_margin.turns import Turns


def test_one_who_changes_gets_a_turn_beside_those_who_ask_all_the_time() -> None:
    turns, over, asked = Turns(), threading.Event(), [0]

    def ask() -> None:
        while not over.is_set():
            with turns.asking():
                asked[0] += 1

    askers = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for one in askers:
        one.start()
    changed = 0
    for _ in range(50):
        with turns.changing():
            changed += 1
    over.set()
    for one in askers:
        one.join(10)
    assert changed == 50 and not any(one.is_alive() for one in askers)


def test_one_who_asks_goes_before_one_who_changes() -> None:
    turns, order, ready = Turns(), list[str](), threading.Barrier(3)

    def ask() -> None:
        ready.wait()
        with turns.asking():
            order.append("asked")

    def change() -> None:
        ready.wait()
        with turns.changing():
            order.append("changed")

    threads = [threading.Thread(target=work) for work in (change, ask)]
    with turns.changing():
        for one in threads:
            one.start()
        ready.wait()
        while not (turns._asking and turns._changing):
            pass
    for one in threads:
        one.join(10)
    assert order == ["asked", "changed"]


def test_one_who_asks_waits_for_one_who_changes_but_not_for_another_one() -> None:
    turns, inside, free = Turns(), threading.Barrier(2), threading.Event()

    def ask() -> None:
        with turns.asking():
            inside.wait(10)

    def change() -> None:
        with turns.changing():
            free.wait(10)

    first, second, third = (threading.Thread(target=work) for work in (ask, change, ask))
    first.start()
    with turns.asking():
        second.start()
        second.join(0.1)
        assert not turns._held
        inside.wait(10)  # both of those who ask are in
    first.join(10)
    while not turns._held:
        pass
    third.start()
    third.join(0.1)
    assert not turns._inside
    free.set()
    inside.wait(10)
    second.join(10)
    third.join(10)
