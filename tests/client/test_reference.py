import pytest

from flserve_app.client.reference import Reference, parse_reference
from flserve_app.errors import StoreError


@pytest.mark.parametrize("private", ["", "cd" * 32])
def test_a_reference_comes_back_from_its_json(private):
    reference = Reference(model="a/../b\n", version=7, digest="ab" * 32, private=private)
    assert parse_reference(reference.to_json()) == reference
    assert "\n" not in reference.to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"model": "m", "version": "x", "digest": "ab"}',
        '{"model": "m", "version": 1e999, "digest": "ab"}',
        '{"model": "m", "version": null, "digest": "ab"}',
    ],
)
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(StoreError, match="a held version's reference is malformed"):
        parse_reference(text)


@pytest.mark.parametrize("digest", ["", "ab", "../../etc/passwd", "AB" * 32, "ab" * 32 + "\n"])
def test_a_digest_is_a_digest_and_no_path(digest):
    text = Reference(model="m", version=1, digest=digest).to_json()
    with pytest.raises(StoreError, match="expected a hex SHA-256"):
        parse_reference(text)
