import csv
import re
from io import StringIO

import pytest
from rich.console import Console

from flserve_app.compose.sweeps import Job, failures_sentence, sweep_csv, sweep_table, swept_keys
from tests.compose.test_screen import DIGEST, summary


def printed(jobs):
    console = Console(file=StringIO(), width=100)
    console.print(sweep_table(jobs))
    return console.file.getvalue()


JOBS = [
    Job(number=0, overrides=["task=digits", "seed=1", "codec=full"], summary=summary()),
    Job(number=1, overrides=["task=digits", "seed=1", "codec=grid"], error="no room, at all"),
    Job(number=2, overrides=["task=digits", "seed=2", "codec=full"], summary=summary(final_accuracy=None)),
]


@pytest.mark.parametrize(
    ("jobs", "keys"),
    [
        (JOBS, ["seed", "codec"]),
        (JOBS[:1], ["task", "seed", "codec"]),
        ([Job(number=0, overrides=["+a.b=1"]), Job(number=1, overrides=["a.b=2"])], ["a.b"]),
        ([Job(number=0, overrides=["roles=[{x=y: z}]"]), Job(number=1, overrides=[])], ["roles"]),
    ],
)
def test_what_differs_was_swept(jobs, keys):
    assert swept_keys(jobs) == keys


def test_a_table_has_a_column_for_each_key_and_a_row_for_each_job():
    text = printed(JOBS)
    assert "3 runs, 1 failed" in text
    assert "task" not in text
    assert re.search(r"0 │ 1 +│ full +│ +0.5000 │ abcdef012345 │ +1.00 kB │ 3.00 MB │ +50.0 % │", text)
    assert re.search(r"1 │ 1 +│ grid +│ +failed │", text)
    assert re.search(r"2 │ 2 +│ full +│ +- │", text)


def test_brackets_in_an_override_are_no_markup():
    assert "[/1]" in printed([Job(number=0, overrides=["x=[/1]"], summary=summary())])


def test_csv_has_the_same_in_full():
    first, second, third = csv.DictReader(StringIO(sweep_csv(JOBS)))
    assert (first["job"], first["seed"], first["codec"], first["state"]) == ("0", "1", "full", "finished")
    assert (first["final_digest"], first["bytes_up"], first["folder"]) == (DIGEST, "3000000", "/out/run")
    assert (second["state"], second["error"], second["final_digest"]) == ("failed", "no room, at all", "")
    assert (third["final_accuracy"], third["seed"]) == ("", "2")


def test_those_that_failed_are_named():
    assert failures_sentence(JOBS) == "1 of 3 jobs failed: job 1 (seed=1 codec=grid): no room, at all"
    more = [*JOBS, Job(number=3, overrides=["seed=3"], error="x"), Job(number=4, overrides=["seed=4"], error="y")]
    assert failures_sentence(more) == (
        "3 of 5 jobs failed (1, 3, 4): job 1 (task=digits seed=1 codec=grid): no room, at all"
    )
    assert failures_sentence(JOBS[:1]) == ""
