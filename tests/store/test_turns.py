import threading
import time

import pytest

from flserve_app.errors import StoreError
from flserve_app.store.turns import Turns


def test_turns_come_in_the_order_of_asking():
    turns, order, threads = Turns(10), [], []

    def work(number):
        with turns.turn():
            order.append(number)

    with turns.turn():
        for number in range(20):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_one_holds_a_turn_at_a_time():
    turns, inside, most = Turns(10), 0, 0

    def work():
        nonlocal inside, most
        for _ in range(50):
            with turns.turn():
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_who_waits_too_long_is_told_and_is_in_nobodys_way():
    turns = Turns(0.05)
    with (
        turns.turn(),
        pytest.raises(StoreError, match=r"other threads of this process wrote.* for 0\.05 s"),
    ):
        turns._take()
    with turns.turn():
        pass


def test_a_turn_that_fails_is_passed_on():
    turns = Turns(0.05)
    with pytest.raises(KeyError), turns.turn():
        raise KeyError
    with turns.turn():
        pass


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("handed_over", [False, True])
def test_who_is_stopped_while_he_waits_takes_no_turn_with_him(monkeypatch, handed_over):
    turns = Turns(5)
    turns._take()

    def wait(event, seconds):
        if handed_over:
            turns._pass_on()  # the turn comes at the very moment of the signal
        raise Stopped

    monkeypatch.setattr(threading.Event, "wait", wait)
    with pytest.raises(Stopped), turns.turn():
        pytest.fail("it never had its turn")
    monkeypatch.undo()
    if not handed_over:
        turns._pass_on()
    with turns.turn():
        pass
