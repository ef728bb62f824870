import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.delivery import CacheInfo, Payloads

A, B = "a" * 64, "b" * 64


def sized(key):
    return bytes(int(key[1]))


def test_a_payload_is_made_once():
    made = []
    payloads = Payloads(lambda key: made.append(key) or b"payload")
    assert payloads.get((A, B, "lossless")) is payloads.get((A, B, "lossless"))
    assert payloads.get((None, B, "lossless")) == b"payload"
    assert made == [(A, B, "lossless"), (None, B, "lossless")]
    assert payloads.info() == CacheInfo(hits=1, encodes=2, held_bytes=14)


def test_eight_threads_make_one_encode():
    ready, made = threading.Barrier(8), []

    def make(key):
        made.append(key)
        time.sleep(0.05)
        return b"x" * 10

    payloads, found = Payloads(make), []

    def ask():
        ready.wait()
        found.append(payloads.get((A, B, "lossless")))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len({id(payload) for payload in found}) == 1
    assert payloads.info() == CacheInfo(hits=7, encodes=1, held_bytes=10)


def test_two_keys_are_made_side_by_side():
    meeting = threading.Barrier(2, timeout=5)
    payloads = Payloads(lambda key: bytes(meeting.wait()))
    threads = [threading.Thread(target=payloads.get, args=((None, key, "full"),)) for key in (A, B)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert payloads.info().encodes == 2


def test_a_payload_that_could_not_be_made_is_tried_again():
    answers = [ValueError("disk"), b"payload"]

    def make(key):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    payloads = Payloads(make)
    with pytest.raises(ValueError, match="disk"):
        payloads.get((None, A, "full"))
    assert payloads.get((None, A, "full")) == b"payload"
    assert payloads.info().encodes == 1


def test_the_cache_is_bounded_in_bytes_and_drops_the_least_recently_used():
    payloads = Payloads(sized, max_bytes=10)
    for size in (4, 5):
        payloads.get((None, str(size), "full"))
    payloads.get((None, "4", "full"))
    payloads.get((None, "1", "full"))
    assert payloads.info() == CacheInfo(hits=1, encodes=3, held_bytes=10)
    payloads.get((None, "2", "full"))
    payloads.get((None, "4", "full"))
    assert payloads.info() == CacheInfo(hits=2, encodes=4, held_bytes=7)
    payloads.get((None, "5", "full"))
    assert payloads.info().encodes == 5


def test_a_payload_larger_than_the_bound_is_kept_until_the_next():
    payloads = Payloads(sized, max_bytes=10)
    payloads.get((None, "50", "full"))
    payloads.get((None, "50", "full"))
    assert payloads.info() == CacheInfo(hits=1, encodes=1, held_bytes=50)
    payloads.get((None, "3", "full"))
    assert payloads.info().held_bytes == 3


@given(st.lists(st.integers(0, 8), max_size=30), st.integers(8, 20))
def test_the_bound_holds_whatever_is_asked_for(sizes, bound):
    payloads = Payloads(sized, max_bytes=bound)
    for size in sizes:
        assert len(payloads.get((None, str(size), "full"))) == size
        assert payloads.info().held_bytes <= bound
    info = payloads.info()
    assert info.hits + info.encodes == len(sizes)


def test_what_is_stored_is_read_and_not_made():
    stored = {(None, A, "full"): b"stored"}
    payloads = Payloads(sized, stored.get)
    assert payloads.get((None, A, "full")) == b"stored"
    assert payloads.get((None, "4", "full")) == bytes(4)
    assert payloads.info() == CacheInfo(hits=0, encodes=1, held_bytes=10, reads=1)


def test_bytes_stay_known_when_the_payload_is_dropped():
    payloads = Payloads(sized, max_bytes=10)
    assert payloads.size((None, "8", "full")) is None
    for size in ("8", "9"):
        payloads.get((None, size, "full"))
    assert [payloads.size((None, size, "full")) for size in ("8", "9")] == [8, 9]
    assert payloads.kept() == {(None, "9", "full"): 9}


def test_a_payload_made_elsewhere_is_kept():
    payloads = Payloads(sized)
    payloads.put((None, "5", "full"), b"other")
    assert payloads.get((None, "5", "full")) == b"other"
    assert payloads.info() == CacheInfo(hits=1, encodes=0, held_bytes=5)
