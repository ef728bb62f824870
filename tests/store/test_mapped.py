import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.store.mapped import MAPPED_FROM_BYTES, mapped

CONTENT = hashlib.shake_128(b"file").digest(3 * MAPPED_FROM_BYTES)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("mapped") / "file"
    file.write_bytes(CONTENT)
    return file


@given(st.integers(0, len(CONTENT)), st.integers(0, len(CONTENT)))
def test_any_part_is_what_the_file_has_there(path, one, other):
    start, end = sorted((one, other))
    with path.open("rb") as file:
        view, digest = mapped(file, start, end - start)
    assert view == CONTENT[start:end]
    assert digest == hashlib.sha256(CONTENT[start:end]).hexdigest()


def test_a_file_that_ends_before_has_another_digest(path):
    expected = hashlib.sha256(CONTENT[10:]).hexdigest()
    with path.open("rb") as file:
        view, digest = mapped(file, 10, len(CONTENT))
    assert digest == expected
    assert view != CONTENT[10:]


def test_a_large_part_takes_no_memory_for_data(tmp_path):
    file, size = tmp_path / "large", 256 << 20
    with file.open("wb") as large:
        large.truncate(size)
    code = (
        "import resource; from flserve_app.store.mapped import mapped; "
        f"resource.setrlimit(resource.RLIMIT_DATA, ({size // 2},) * 2); "
        f"view, digest = mapped(open({str(file)!r}, 'rb'), 4096, {size} - 4096); print(len(view), view[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(size - 4096), "0"]
