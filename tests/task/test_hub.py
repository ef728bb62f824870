import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from PIL import Image as Pictures

from flserve_app.errors import TaskError
from flserve_app.task import HubSource, TaskSpec, client_data, hub, task_data


def picture(level, side=10, mode="RGB"):
    return Pictures.new(mode, (side, side), (level, 0, 255) if mode == "RGB" else level)


def write(folder, split, levels, labels, *, label=None, mode="RGB", image=None):
    features = Features({"img": image or Image(), "kind": label or ClassLabel(names=["cat", "dog"])})
    rows = {"img": [picture(level, mode=mode) for level in levels], "kind": labels}
    (folder / "data").mkdir(exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(folder / "data" / f"{split}-0.parquet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "pets"
    folder.mkdir()
    write(folder, "train", range(0, 240, 6), [0, 1] * 20)
    write(folder, "test", [5, 10], [1, 0])
    return folder


def spec(folder, seed=1, num_clients=4, **values):
    values = {"image_column": "img", "label_column": "kind", "side": 8, "channels": 3, **values}
    return TaskSpec(name="hub", seed=seed, num_clients=num_clients, hub=HubSource(dataset=str(folder), **values))


def test_a_folder_of_images_becomes_a_task(folder):
    task = task_data(spec(folder))
    assert task.input_shape == (3, 8, 8)
    assert (len(task.train), len(task.test)) == (40, 2)
    assert task.classes == ("cat", "dog")
    assert task.train.labels.tolist() == [0, 1] * 20
    assert task.train.inputs[:3, 0, 0, 0] == pytest.approx([0, 6 / 255, 12 / 255])
    assert np.all(task.train.inputs[:, 1] == 0)
    assert np.all(task.train.inputs[:, 2] == 1)
    assert task.preprocessing["dataset"] == str(folder)
    parts = [client_data(spec(folder), part)[0] for part in range(4)]
    assert sum(map(len, parts)) == 40


def test_grey_levels_and_a_test_of_its_own(folder):
    task = task_data(spec(folder, channels=1, test_split="", side=5))
    assert task.input_shape == (1, 5, 5)
    assert (len(task.train), len(task.test)) == (32, 8)
    assert not np.array_equal(task.test.labels, task_data(spec(folder, seed=2, channels=1, test_split="")).test.labels)


def test_labels_may_be_plain_values(folder):
    write(folder, "train", range(4), ["b", "a", "c", "b"], label=Value("string"))
    write(folder, "test", range(2), ["c", "a"], label=Value("string"))
    task = task_data(spec(folder, num_clients=2))
    assert task.classes == ("a", "b", "c")
    assert task.train.labels.tolist() == [1, 0, 2, 1]
    write(folder, "test", range(1), ["d"], label=Value("string"))
    with pytest.raises(TaskError, match=r"split 'test' of .* has labels beyond the others': \['d'\]"):
        task_data(spec(folder, num_clients=1))


def test_integers_are_ordered_as_numbers(folder):
    for split in ("train", "test"):
        write(folder, split, range(3), [10, 9, 2], label=Value("int64"))
    task = task_data(spec(folder, num_clients=3))
    assert task.classes == ("2", "9", "10")
    assert task.train.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_column": "picture"}, "has no column 'picture'; found: img, kind"),
        ({"label_column": "label"}, "has no column 'label'; found: img, kind"),
        ({"train_split": "training"}, "cannot load split 'training' of data set '.*pets': .*training"),
        ({"subset": "birds"}, "cannot load split 'train' of data set '.*pets': BuilderConfig 'birds' not found"),
        ({"image_column": "kind"}, "split 'train' of .*: column 'kind' holds int, not images"),
    ],
)
def test_what_the_data_set_lacks_is_named(folder, values, message):
    with pytest.raises(TaskError, match=message) as caught:
        task_data(spec(folder, **values))
    assert "\n" not in str(caught.value)


def test_a_data_set_over_its_bound_is_refused(folder, monkeypatch):
    monkeypatch.setattr(hub, "MAX_VALUES", 40 * 3 * 8 * 8 - 1)
    with pytest.raises(TaskError, match=r"split 'train' of data set .* has over 7679 values; shrink `side`"):
        task_data(spec(folder, num_clients=7))


def test_images_that_cannot_be_read_are_refused(folder):
    features = Features({"img": {"bytes": Value("binary"), "path": Value("string")}, "kind": Value("int64")})
    broken = Dataset.from_dict({"img": [{"bytes": b"no image", "path": None}], "kind": [0]}, features=features)
    broken.cast_column("img", Image()).to_parquet(folder / "data" / "train-0.parquet")
    with pytest.raises(TaskError, match=r"split 'train' of data set .*cannot identify image file"):
        task_data(spec(folder, num_clients=1))


@contextmanager
def answering(monkeypatch, status, body):
    """Let a server on this machine stand for the Hub, which says the same to every question."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("X-Error-Code", "RepoNotFound" if status == 404 else "")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_without_a_network_there_is_one_sentence_at_once(monkeypatch):
    # Nothing listens there, so that the test is the same on a machine with a network.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(
        TaskError, match=r"cannot reach the Hub for data set 'ylecun/mnist' \(.+\); if it was"
    ) as caught:
        task_data(TaskSpec(name="hub", hub=HubSource(dataset="ylecun/mnist")))
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("revision", "named"), [("", "'no/such'"), ("v9", "'no/such' at revision 'v9'")])
def test_a_data_set_that_the_hub_does_not_have_is_named(monkeypatch, revision, named):
    source = HubSource(dataset="no/such", revision=revision)
    with (
        answering(monkeypatch, 404, b"{}"),
        pytest.raises(TaskError, match=f"there is no data set {named} on the Hub, and no local folder of that name"),
    ):
        task_data(TaskSpec(name="hub", hub=source))


def test_pixels_of_the_hub_are_kept_and_need_no_network_again(folder, monkeypatch):
    source = HubSource(dataset="some/pets", image_column="img", label_column="kind", side=8)
    asked = []

    def load(path, *arguments, revision, **named):
        asked.append((path, revision))
        return load_dataset(str(folder), *arguments, **named)

    with answering(monkeypatch, 200, b'{"id": "some/pets", "sha": "abc123"}'), monkeypatch.context() as patch:
        patch.setattr("datasets.load_dataset", load)
        first = task_data(TaskSpec(name="hub", hub=source, seed=1))
    second = task_data(TaskSpec(name="hub", hub=source, seed=2))
    assert asked == [("some/pets", "abc123")] * 2
    assert np.array_equal(first.train.inputs, second.train.inputs)
    assert second.classes == ("cat", "dog")
    assert second.preprocessing["revision"] == "abc123"


def test_what_was_downloaded_before_is_loaded_without_asking(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "datasets.load_dataset", lambda path, *_, split, revision: load_dataset(str(folder), split=split)
    )
    source = HubSource(dataset="some/pets", revision="v1", image_column="img", label_column="kind", side=8)
    assert task_data(TaskSpec(name="hub", hub=source)).preprocessing["revision"] == "v1"


def test_the_task_needs_a_data_set():
    with pytest.raises(TaskError, match=r"task 'hub' needs a data set: task\.hub\.dataset=ylecun/mnist"):
        task_data(TaskSpec(name="hub"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": ""}, "task 'hub': dataset is empty; name it"),
        ({"train_split": ""}, "train_split is empty"),
        ({"side": 0}, "side is 0, expected 1 to 1024 pixels"),
        ({"side": 1025}, "side is 1025, expected 1 to 1024 pixels"),
        ({"channels": 2}, "channels is 2, expected 1 or 3"),
    ],
)
def test_a_source_out_of_its_range_is_refused(values, message):
    with pytest.raises(TaskError, match=message):
        HubSource(**{"dataset": "a/b", **values})
