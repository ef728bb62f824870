"""The server's side: a Flower strategy and a Grid that deliver versions."""

from flserve_app.strategy.compatibility import check as check_strategy
from flserve_app.strategy.compatibility import check_lossy, check_private
from flserve_app.strategy.ledger import RoundRow
from flserve_app.strategy.nodes import count_nodes
from flserve_app.strategy.opening import check_name, expanded, open_registry
from flserve_app.strategy.row_line import log_row, round_line
from flserve_app.strategy.strategy import VersionedStrategy

__all__ = [
    "RoundRow",
    "VersionedStrategy",
    "check_lossy",
    "check_name",
    "check_private",
    "check_strategy",
    "count_nodes",
    "expanded",
    "log_row",
    "open_registry",
    "round_line",
]
