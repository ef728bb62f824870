from datetime import UTC, datetime

import pytest

from flserve_app.errors import NotFound
from flserve_app.registry.refs import resolve
from flserve_app.store import Version

DIGESTS = ["123456" + "0" * 58, "abcdef" + "0" * 58, "abcdef" + "1" * 58, "abcdef" + "0" * 58]
LABELS = {"latest": 3, "stable": 1}


def version(number: int) -> Version:
    return Version(
        model="m",
        number=number,
        serial=number + 1,
        digest=DIGESTS[number],
        nbytes=1,
        stored=1,
        parent=None,
        round=number,
        run=None,
        codec="lossless",
        metrics={},
        created=datetime(2026, 1, 1, tzinfo=UTC),
        serving=None,
    )


VERSIONS = [version(number) for number in range(4)]


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("latest", 3),
        ("stable", 1),
        ("v0", 0),
        ("2", 2),
        ("v02", 2),
        ("123456", 0),
        (DIGESTS[2], 2),
        ("abcdef1", 2),
        ("abcdef0", 3),  # published twice: the newest
    ],
)
def test_a_version_has_many_names(ref, number):
    assert resolve(ref, VERSIONS, LABELS).number == number


@pytest.mark.parametrize("ref", ["", "v4", "-1", "candidate", "12345", "fedcba", "V1", "1.0", "v" + "9" * 30, "LATEST"])
def test_an_unknown_name_lists_the_choices(ref):
    with pytest.raises(NotFound, match=r"has no version .*; it has v0 to v3, labels latest \(v3\), stable \(v1\), and"):
        resolve(ref, VERSIONS, LABELS)


def test_an_ambiguous_digest_asks_for_more():
    with pytest.raises(NotFound, match=r"'abcdef' is the start of 2 digests of model 'm'; add digits"):
        resolve("abcdef", VERSIONS, LABELS)
