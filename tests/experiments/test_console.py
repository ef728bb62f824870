import io

from flserve_app.experiments.console import PLAIN_WIDTH, report_console


def test_what_goes_into_a_pipe_has_room_for_all_columns(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert not report_console().is_terminal
    assert report_console().width == PLAIN_WIDTH
    assert report_console(120).width == 120


def test_a_terminal_keeps_its_own_width(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "77")
    assert report_console().width == 77
