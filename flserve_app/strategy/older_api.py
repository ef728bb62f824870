"""Apps of Flower's older API, told by what they are or by how they fail: what to do instead, in one sentence."""

from __future__ import annotations

import re

STRATEGIES = "flwr.server.strategy"
GUIDE = "https://flower.ai/docs/framework/how-to-upgrade-to-message-api.html"
STRATEGY_HINT = (
    f"use the class of that name in flwr.serverapp.strategy, and move overridden methods as the guide says, {GUIDE}"
)
CLIENT_HINT = (
    "clients are of Flower's older API (ClientApp(client_fn)), which no strategy of flwr.serverapp reaches: give the "
    f"ClientApp handlers, @app.train() and @app.evaluate(), as the guide says, {GUIDE}; a VersionedClient answers in "
    "them with MyClient(context).handle_train(message) and handle_evaluate(message)"
)
SERVER_METHODS = ("initialize_parameters", "configure_fit", "aggregate_fit", "evaluate")
SERVER_HINT = (
    "Flower's older server (ServerAppComponents, a workflow) looks for it: call strategy.start(grid=grid, ...) in "
    f"@app.main(), as the guide says, {GUIDE}"
)
_KEYS = re.compile(r"\b(?:fitins|evaluateins|getparametersins|getpropertiesins)\.\w")


def is_older_strategy(strategy: object) -> bool:
    """Whether an object is a strategy of the older API."""
    return any(base.__module__.startswith(STRATEGIES) for base in type(strategy).__mro__)


def is_older_client(reason: str) -> bool:
    """Whether a client's error is that of an older one that was sent a message: it looks for records of its own."""
    return _KEYS.search(reason) is not None
