"""Where the images of the task `hub` come from: a value that travels in a config, checked on arrival."""

from __future__ import annotations

from dataclasses import dataclass

from flserve_app.errors import TaskError

MAX_SIDE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """An image classification data set on the Hugging Face Hub.

    Attributes:
        dataset: Its name, such as `ylecun/mnist`, or a local folder with such a data set.
        subset: Its configuration; empty for the default.
        revision: Commit, branch or tag; empty for the newest when it is first loaded on this machine.
        image_column: Column with the images.
        label_column: Column with the labels, integers or names.
        train_split: Split to train on.
        test_split: Split that is held out; empty to hold out 20 % of `train_split`.
        side: Pixels of a side that images are resized to.
        channels: 1 for grey levels, 3 for red, green and blue.

    Raises:
        TaskError: If a value is out of its range.
    """

    dataset: str
    subset: str = ""
    revision: str = ""
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    side: int = 28
    channels: int = 1

    def __post_init__(self) -> None:
        """Refuse values that are not as stated."""
        for field in ("dataset", "image_column", "label_column", "train_split"):
            if not getattr(self, field):
                raise TaskError(f"task 'hub': {field} is empty; name it, such as task.hub.dataset=ylecun/mnist")
        if not 1 <= self.side <= MAX_SIDE:
            raise TaskError(f"task 'hub': side is {self.side}, expected 1 to {MAX_SIDE} pixels")
        if self.channels not in (1, 3):
            raise TaskError(f"task 'hub': channels is {self.channels}, expected 1 or 3")
