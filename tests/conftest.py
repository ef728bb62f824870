import signal
import tempfile

import pytest
from hypothesis import settings

# What packages under ours warn about among themselves; a warning of ours stays an error.
THEIRS = ("'click\\.:DeprecationWarning",)


settings.register_profile("flserve", deadline=None)  # machines are shared; a slow example is no failure
settings.load_profile("flserve")


def pytest_configure(config):
    # A shell's background jobs ignore interrupts, and so would all that tests start: some are to be interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for warning in THEIRS:
        config.addinivalue_line("filterwarnings", f"ignore:{warning}")


@pytest.fixture(autouse=True)
def _own_places(tmp_path_factory, monkeypatch):
    """Let every test have caches and a temporary directory of its own."""
    place = tmp_path_factory.mktemp("own")
    for name in ("FLSERVE_CACHE_DIR", "FLSERVE_OUTPUTS", "FLSERVE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "xdg"))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
