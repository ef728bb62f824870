import logging
import re
import sys
from io import StringIO

import pytest
from rich.console import Console

from flserve_app.compose.screen import Screen, summary_table
from flserve_app.compose.summary import summarise
from flserve_app.strategy import RoundRow, round_line
from flserve_app.text import readable_bytes, share

DIGEST = "abcdef012345" + "0" * 52


def row(number, **fields):
    known = {
        "version": number,
        "digest": DIGEST,
        "bytes_down": 500,
        "bytes_down_full": 2000,
        "bytes_up": 1_500_000,
        "bytes_up_full": 3_000_000,
        "plans": {"delta": 7, "full": 1},
        "client_versions": {"0": 2, str(number): 8},
    }
    return RoundRow(round=number, **{**known, **fields})


def summary(**fields):
    rows = [row(0), row(1, accuracy=0.5, loss=1.25, failures=2)]
    return {
        **summarise(rows, versions=2, payloads={"encodes": 3, "hits": 5}, seconds=1.23456, folder="/out/run"),
        **fields,
    }


def test_a_summary_takes_the_last_row_and_the_sums():
    found = summary()
    assert next(iter(found)) == "folder"
    assert (found["rounds"], found["final_version"], found["final_digest"]) == (1, 1, DIGEST)
    assert (found["final_accuracy"], found["final_loss"], found["failures"]) == (0.5, 1.25, 2)
    assert (found["bytes_down"], found["bytes_up"], found["bytes_down_full"]) == (1000, 3_000_000, 4000)
    assert found["seconds"] == 1.235
    assert found["client_versions"] == {"0": 2, "1": 8}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1_250_000, "1.25 MB"),
        (2e9, "2.00 GB"),
        (3.5e12, "3.50 TB"),
        (4e15, "4000.00 TB"),
    ],
)
def test_bytes_for_people(count, text):
    assert readable_bytes(int(count)) == text


def test_shares_for_people():
    assert share(1, 3) == "33.3 %"
    assert share(0, 0) == "-"


def test_a_round_in_one_line():
    assert round_line(row(3, accuracy=0.71234, seconds=1.5)) == (
        "round   3  v3 abcdef012345  accuracy 0.7123  down 500 B (25.0 % of full)  up 1.50 MB (50.0 %)  "
        "sent 7 delta, 1 full  1.50 s"
    )
    assert "accuracy -" in round_line(row(0, plans={}))
    assert "sent none" in round_line(row(0, plans={}))


def printed(found):
    console = Console(file=StringIO(), width=100)
    console.print(summary_table(found))
    return console.file.getvalue()


def test_the_closing_summary():
    text = printed(summary())
    for part in ("2 (latest v1)", "0.5000", DIGEST, "v0: 2, v1: 8", "1.00 kB of 4.00 kB in full (25.0 %)", "/out/run"):
        assert part in text
    bare = printed(summary(final_accuracy=None, client_versions={}))
    assert re.search(r"final accuracy +│ - ", bare)
    assert re.search(r"clients by version +│ - ", bare)


def test_brackets_in_a_path_are_no_markup():
    assert "/out/a[/b][red]" in printed(summary(folder="/out/a[/b][red]"))


def test_without_a_terminal_rounds_are_lines():
    lines, console = [], Console(file=StringIO(), width=100)
    screen = Screen(2, lines.append, console)
    screen.show(row(1))
    screen.close(summary())
    assert lines == [round_line(row(1))]
    assert "final digest" in console.file.getvalue()


def test_on_a_terminal_there_is_a_bar():
    lines, console = [], Console(file=StringIO(), width=100, force_terminal=True)
    screen = Screen(2, lines.append, console)
    screen.show(row(1, accuracy=0.5))
    screen.show(row(2))
    screen.close(summary())
    text = console.file.getvalue()
    assert lines == []
    assert "2/2" in text
    assert "v2" in text
    assert re.search(r"0:00:00 left [\d:-]+", re.sub(r"\x1b\[[\d;]*m", "", text))
    assert "final digest" in text


def test_rows_stay_above_the_bar_with_the_clients_accuracy():
    console = Console(file=StringIO(), width=200, force_terminal=True)
    screen = Screen(1, lambda line: None, console)
    done = row(1, metrics={"client_accuracy": 0.75})
    screen.show(done)
    screen.close(summary())
    text = console.file.getvalue()
    assert round_line(done) in text
    assert "v1 accuracy 0.7500 (clients) 50.0 % of full bytes" in text


def test_flowers_log_goes_above_the_bar_while_it_is_there(monkeypatch):
    logger = logging.getLogger("flwr")
    handler = logging.StreamHandler(sys.__stderr__)
    monkeypatch.setattr(logger, "handlers", [handler])
    console = Console(file=StringIO(), width=100, force_terminal=True)
    screen = Screen(1, lambda line: None, console)
    logger.warning("flserve: a word")
    assert "flserve: a word" in console.file.getvalue()
    screen.close(None)
    assert handler.stream is sys.__stderr__


def test_a_run_that_failed_has_no_summary():
    for terminal in (False, True):
        console = Console(file=StringIO(), width=100, force_terminal=terminal)
        screen = Screen(2, lambda line: None, console)
        screen.close(None)
        assert "final digest" not in console.file.getvalue()
        assert screen._progress is None or screen._progress.finished is False


def test_where_the_server_measures_nothing_the_clients_accuracy_is_shown():
    assert "accuracy 0.7500 (clients)" in round_line(row(1, metrics={"client_accuracy": 0.75}))
    assert "accuracy 0.5000  " in round_line(row(1, accuracy=0.5, metrics={"client_accuracy": 0.75}))
    assert "accuracy -  " in round_line(row(1))
    rows = [row(0), row(1, metrics={"client_accuracy": 0.75})]
    found = summarise(rows, versions=2, payloads={}, seconds=1.0, folder="/out/run")
    assert found["final_client_accuracy"] == 0.75
    assert re.search(r"final accuracy +│ 0.7500 \(clients\) ", printed(found))
