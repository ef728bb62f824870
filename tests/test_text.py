import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.text import SHOWN, is_identity, is_plain, plain

ESCAPES = {
    "a title": "\x1b]0;owned\x07",
    "a title ended by ST": "\x1b]0;owned\x1b\\",
    "a cleared screen": "\x1b[2J",
    "the clipboard": "\x1b]52;c;cm0=\x07",
    "eight-bit CSI": "\x9b31m",
    "a device control string": "\x1bPq#0;2\x1b\\",
    "a reset": "\x1bc",
    "a character set": "\x1b(0",
    "a string that never ends": "\x1b]0;",
    "backspaces": "\x08\x08",
    "a direction mark": "\u202e",
    "an isolate": "\u2066",
    "a zero width": "\u200b",
    "a surrogate": "\ud800",
    "private use": "\ue000",
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_escapes_go_with_their_arguments(escape):
    assert plain(f"before{escape}") == "before"
    assert not is_plain(f"before{escape}")


@pytest.mark.parametrize("space", ["\n", "\r\n", "\t", "\v", "\x85", "\u2028", "\u2029", "  "])
def test_white_space_of_any_kind_is_one_space(space):
    assert plain(f" one{space}two ") == "one two"
    assert not is_plain(f"one{space}two") or space == "  "


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Exits(str):
    def __str__(self):
        raise SystemExit

    __len__ = __getitem__ = __iter__ = __str__


class Nameless(type):
    @property
    def __name__(cls):
        raise ValueError


class Odd(metaclass=Nameless):
    def __str__(self):
        return 3


class Tricky(str):
    def __str__(self):
        return self

    def __getitem__(self, _):
        raise ValueError


def deep():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    return nested


# By name: to name a case after such a value would be the test's own fault.
SHOWN_AS = {
    "an error without text": (Silent(), "Silent"),
    "an error of one": (ValueError(Silent()), "ValueError"),
    "a text that exits": (Exits("x"), "Exits"),
    "a class without a name": (Odd(), "Odd"),
    "a name with escapes": (type("\x1b[2Jred\n", (Silent,), {})(), "red"),
    "a text that cannot be cut": (Tricky("said\n"), "said"),
    "deeper than the stack": (deep(), "list"),
    "a number too long": (10**5000, "int"),
    "nothing": (None, "None"),
}


@pytest.mark.parametrize("case", SHOWN_AS)
def test_an_object_that_cannot_be_made_text_is_shown_by_its_type(case):
    value, shown = SHOWN_AS[case]
    assert plain(value) == shown


def test_whoever_interrupts_is_heard():
    class Interrupts:
        def __str__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain(Interrupts())


def test_what_people_write_stays_as_it_is():
    said = "Größe 3 mal 4 ≠ (5,), 模型 'cnn' - naïve?"
    assert plain(said) == said
    assert is_plain(said)


def test_what_is_too_long_is_cut_and_says_so():
    assert plain("x" * (SHOWN + 1)) == "x" * (SHOWN - 1) + "…"
    assert plain("x" * SHOWN) == "x" * SHOWN
    assert plain("x" * 10_000_000)[-1] == "…"


@given(st.text(), st.integers(2, 50))
def test_one_line_whatever_comes_in(text, limit):
    line = plain(text, limit)
    assert len(line) <= limit
    assert line == line.strip()
    assert not line or is_plain(line, limit)
    assert plain(line, limit) == line


@given(st.text(alphabet=string.ascii_letters + string.digits + "_.-/ ", min_size=1, max_size=80).map(str.strip))
def test_ordinary_names_are_plain(name):
    assert is_plain(name) == bool(name)


@pytest.mark.parametrize("name", ["a", "partition-10", "client-0f", "hospital_7.b", "9" * 128, "A" + "-" * 127])
def test_what_can_name_a_client(name):
    assert is_identity(name)


@pytest.mark.parametrize(
    "name", ["", "-x", ".x", "_x", "x" * 129, "a b", "a\n", "a/b", "\u00e9", "\u0663", "a\x00", None, 3, b"a", True]
)
def test_what_cannot(name):
    assert not is_identity(name)
