"""The client's part of differential privacy: which of Flower's mods clips, or adds noise to, what it learned.

The server says with each round which kind the job has, because clients never read a configuration. The mods
run inside `versioned_mod`, so that they have the last word on what is encoded, and see floating tensors alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from flwr.app import Context, Message
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod

from flserve_app.client.integers import Handler, Mod, floats_only
from flserve_app.config import DpConfig
from flserve_app.errors import ConfigError

KEY = "flserve-privacy"


def told(dp: DpConfig) -> dict[str, str]:
    """Return what the server adds to a round's config; nothing where the client has no part."""
    return {KEY: json.dumps(asdict(dp))} if dp.kind in ("client_fixed", "client_adaptive", "local") else {}


def private_mod(message: Message, context: Context, call_next: Handler) -> Message:
    """Train under the mod that the server asks for; without a word from it, change nothing.

    Raises:
        ConfigError: If what the server says is malformed.
    """
    found = [record[KEY] for record in message.content.config_records.values() if KEY in record]
    if message.metadata.message_type != "train" or not found:
        return call_next(message, context)
    return floats_only(_mod(found[0]))(message, context, call_next)


def _mod(text: object) -> Mod:
    try:
        dp = DpConfig(**json.loads(str(text)))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"the server's {KEY!r} is malformed: {error}") from error
    bounds = (dp.clipping_norm, dp.sensitivity, dp.epsilon, dp.delta)
    if not all(isinstance(value, int | float) for value in bounds):
        raise ConfigError(f"the server's {KEY!r} is malformed: its bounds are no numbers")
    match dp.kind:
        case "client_fixed":
            return fixedclipping_mod
        case "client_adaptive":
            return adaptiveclipping_mod
        case "local":
            return LocalDpMod(dp.clipping_norm, dp.sensitivity, dp.epsilon, dp.delta)
    raise ConfigError(f"the server's {KEY!r} asks for {dp.kind!r}, in which a client has no part")
