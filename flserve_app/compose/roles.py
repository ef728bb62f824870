"""From a configuration to what the model's tensors are for, and the check that it goes together with all else."""

from __future__ import annotations

from flwr.serverapp.strategy import Strategy

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import Roles
from flserve_app.config import AppConfig
from flserve_app.errors import ConfigError
from flserve_app.strategy import check_private, check_strategy


def roles_of(app: AppConfig) -> Roles:
    """Return the rules of a configuration, in their order.

    Raises:
        ConfigError: If one is malformed.
    """
    return Roles.from_pairs(pair for each in app.roles for pair in each.items())


def check_roles(app: AppConfig, strategy: Strategy, initial: Artifact) -> None:
    """Refuse roles that do not fit the model, or do not go together with the strategy.

    Raises:
        ConfigError: If they do not, or are malformed.
    """
    roles = roles_of(app)
    roles.check(initial)
    check_private(check_strategy(strategy, app.strategy.late), roles)
    if app.strategy.dp.kind == "local" and roles.private(initial):
        raise ConfigError(
            "roles: tensors cannot be private under local privacy: its clipping and its noise take the whole model, "
            "and would spoil what never leaves the client"
        )
