import json

import pytest

from tests.cli.test_history import flserve, outputs, rows_of

__all__ = ["outputs"]


def test_a_label_is_put_moved_and_shown(outputs):
    done = flserve("label", "v2", "candidate", "--why", "looks good", "--who", "ann")
    assert (done.exit_code, done.stdout) == (0, "digits: candidate stands at v2\n")
    assert flserve("label", "latest", "candidate", "--who", "bob").stdout == (
        "digits: candidate stands at v3, was at v2\n"
    )
    rows = {row[0]: row for row in rows_of(flserve("label").stdout)}
    assert rows["candidate"][1] == "v3"
    assert rows["candidate"][3:5] == ["v2", "bob"]
    assert {"latest", "stable"} <= set(rows)
    moves = json.loads(flserve("label", "--moves", "--json").stdout)
    assert [(move["version"], move["who"], move["why"]) for move in moves if move["label"] == "candidate"] == [
        ("v2", "ann", "looks good"),
        ("v3", "bob", ""),
    ]
    assert "candidate" in flserve("log").stdout


def test_who_moved_it_is_the_user(outputs, monkeypatch):
    monkeypatch.setenv("USER", "carl")
    assert json.loads(flserve("label", "v1", "x", "--json").stdout)["who"] == "carl"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["v1", "latest"], 1, "follows every publication by itself"),
        (["v1", "v2"], 1, "a label is 1 to 64 letters"),
        (["v9", "good"], 1, "has no version 'v9'"),
        (["v2", "stable", "--expect", "v0"], 1, "stands at v1, expected v0: not moved"),
        (["v1"], 2, "name VERSION and NAME"),
        (["v1", "x", "--moves"], 2, "name VERSION and NAME"),
    ],
)
def test_what_cannot_be_a_label_is_refused(outputs, arguments, code, message):
    before = flserve("label", "--moves", "--json").stdout
    done = flserve("label", *arguments)
    assert done.exit_code == code
    assert message in " ".join(done.stderr.split())
    assert flserve("label", "--moves", "--json").stdout == before


def test_a_label_moves_from_where_it_is_expected(outputs):
    assert flserve("label", "v2", "stable", "--expect", "stable").exit_code == 0
