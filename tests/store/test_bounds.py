import pytest

from flserve_app.errors import StoreError
from flserve_app.store import Serving
from flserve_app.store.bounds import read_serving, serving_to_json


def serving(*classes):
    return serving_to_json(Serving(model_id="cnn", classes=classes))


@pytest.mark.parametrize(
    "name",
    [
        "cat",
        "\n",
        " ",
        "",
        "cat ",
        " the",
        "\u0645\u06cc\u200c\u062e\u0648",
        "\U0001f469\u200d\U0001f52c lab",
        "naïve",
        "模型",
        "x" * 1000,
    ],
)
def test_what_people_and_tokenisers_call_classes_is_taken_as_it_is(name):
    assert read_serving(serving(name, "other")).classes == (name, "other")


@pytest.mark.parametrize(
    "name", ["\x1b[2J", "two\nlines", "\u202etxet", "a\ud800", "\ud800", "\u200d\x1b[2J ", "x" * 1001]
)
def test_what_a_terminal_would_act_on_is_no_class(name):
    with pytest.raises(StoreError, match="a class is at most 1000 printable characters"):
        read_serving(serving(name))
