"""Tasks, data and models: the only home of torch.

What is exported here needs numpy alone; models, training and conversions (`models`, `train`, `state`) import
torch and are named by their module. Everything random is a pure function of a seed.
"""

from flserve_app.task.data import client_data, load_task, task_data, test_data
from flserve_app.task.dataset import Examples, Task
from flserve_app.task.partition import partition
from flserve_app.task.seeds import derived_seed, stream
from flserve_app.task.source import HubSource
from flserve_app.task.spec import TaskSpec

__all__ = [
    "Examples",
    "HubSource",
    "Task",
    "TaskSpec",
    "client_data",
    "derived_seed",
    "load_task",
    "partition",
    "stream",
    "task_data",
    "test_data",
]
