"""An adopted example in Flower's simulation engine, in a process of its own: `python -m ... NAME FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np

from flserve_app.client import versioned_mod
from flserve_app.experiments.engine import federate
from flserve_app.strategy import VersionedStrategy
from tests.strategy.examples import test_lists as lists
from tests.strategy.examples import test_mods as mods
from tests.strategy.examples import test_torch as torched
from tests.strategy.examples.example import ALL, NODES, Example, arrays_of, metrics_of

EXAMPLES = {
    "quickstart-monai": torched.EXAMPLES["quickstart-monai"],
    "advanced-pytorch": Example(torched.tracked_server(**ALL), torched.headed_client),
    "sklearn-logreg-mnist": lists.LISTS["sklearn-logreg-mnist"],
    "custom-mods": Example(mods.server_of(mods.fedavg), mods.client_of(before=[mods.tracker({})])),
}


def main(name: str, folder: Path) -> None:
    """Run an example; leaves its files, its arrays, its metrics, and how it was served in every round."""
    example, left, rows = EXAMPLES[name], [], []
    (folder / "files").mkdir(parents=True)

    def serve(grid):
        def adopt(strategy):
            return VersionedStrategy(strategy, store=folder / "store", num_clients=NODES, observer=rows.append)

        left.append(example.server(grid, adopt, folder / "files"))

    federate("simulation", serve, example.client([versioned_mod]), NODES)
    np.savez(folder / "arrays.npz", **arrays_of(left[0]))
    (folder / "metrics.json").write_text(json.dumps(metrics_of(left[0])))
    (folder / "plans.json").write_text(json.dumps([row.plans for row in rows]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
