"""The 8-bit baseline of `flserve bench bytes`: FedAvg whose changes travel as one signed byte a value.

Both ways each tensor's change is sent as whole steps of its largest magnitude / 127: down from what the client has
to the current model, up from what it was given to what it trained. There is no error feedback and no entropy coding;
a change down is made for each client from what it holds, so that nothing is lost by staying away.

Clients, their draw and their training are those of a run of the product with the same configuration.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from flserve_app.artifact import Artifact
from flserve_app.client.records import to_record
from flserve_app.compose.parts import CentralEvaluation, model_of, task_spec
from flserve_app.config import AppConfig
from flserve_app.experiments.byte_curve import Curve
from flserve_app.strategy.seeds import drawing
from flserve_app.task import client_data, derived_seed
from flserve_app.task.state import load_into, to_arrays
from flserve_app.task.train import train

SCALE_BYTES = 4  # a float32 a tensor
MESSAGE_DOWN, MESSAGE_UP = 1400, 1700  # bytes that Flower puts around a model
_LEVELS = 127

Arrays = dict[str, np.ndarray]
Rounder = Callable[[Arrays, Arrays], Arrays]


def run_eight_bit(app: AppConfig, clients: int, rounded: Rounder | None = None) -> Curve:
    """Train as configured, with changes of 8 bits a value.

    Args:
        app: The configuration; its codecs and its strategy's name are not used.
        clients: Number of clients.
        rounded: Makes of a target and its base what arrives; 8 bits a value by default.
    """
    arrives = eight_bits if rounded is None else rounded
    evaluation = CentralEvaluation(model_of(app), task_spec(app, clients))
    current: Arrays = {name: np.array(value) for name, value in evaluation.initial.items()}
    full, small = sum(value.nbytes for value in current.values()), payload_bytes(current)
    held: dict[int, Arrays] = {}
    accuracy, payload, message = [], [], []
    sent = sent_message = 0
    for number in range(1, app.num_rounds + 1):
        replies = []
        for client in _drawn(app, clients, number):
            sent += small + (small if client in held else full)
            sent_message += MESSAGE_DOWN + MESSAGE_UP
            held[client] = arrives(current, held[client]) if client in held else current
            trained, examples = _trained(app, clients, client, number, held[client])
            replies.append((arrives(trained, held[client]), examples))
        current = _mean(replies)
        accuracy.append(float(evaluation(number, to_record(Artifact(current)))["accuracy"]))  # type: ignore[arg-type]
        payload.append(sent)
        message.append(sent + sent_message)
    return Curve(accuracy=tuple(accuracy), payload=tuple(payload), message=tuple(message))


def eight_bits(target: Arrays, base: Arrays) -> Arrays:
    """Return what arrives of a target at a holder of the base; what is no float arrives as it is."""
    return {name: _eight_bits(value, base[name]) for name, value in target.items()}


def payload_bytes(arrays: Arrays) -> int:
    """Return the bytes of a change of these arrays: a byte a float and a scale a tensor, all else as it is."""
    return sum(value.size + SCALE_BYTES if value.dtype.kind == "f" else value.nbytes for value in arrays.values())


def _eight_bits(value: np.ndarray, base: np.ndarray) -> np.ndarray:
    change = value - base if value.dtype.kind == "f" else np.zeros(0)
    step = np.abs(change).max(initial=0) / _LEVELS
    if not step:
        return value
    steps = np.rint(change / step).astype(np.int8)
    return np.asarray(base + steps * step, dtype=value.dtype)


def _drawn(app: AppConfig, clients: int, number: int) -> list[int]:
    """Return the clients of a round, as Flower's FedAvg draws them in a run with this seed."""
    with drawing(app.seed, number, "train"):
        return sorted(random.sample(range(clients), app.strategy.clients_per_round or clients))


def _trained(app: AppConfig, clients: int, client: int, number: int, given: Arrays) -> tuple[Arrays, int]:
    torch.set_num_threads(1)
    spec = task_spec(app, clients)
    examples, _ = client_data(spec, client)
    module = model_of(app).build(spec)
    load_into(module, Artifact(given))
    train(
        module,
        examples,
        epochs=app.train.epochs,
        batch_size=app.train.batch_size,
        lr=app.train.lr,
        momentum=app.train.momentum,
        seed=derived_seed(app.seed, "train", number, client),
    )
    return {name: value.copy() for name, value in to_arrays(module).items()}, len(examples)


def _mean(replies: list[tuple[Arrays, int]]) -> Arrays:
    total = sum(examples for _, examples in replies)
    means = {name: sum(arrays[name] * (examples / total) for arrays, examples in replies) for name in replies[0][0]}
    return {name: np.asarray(value, dtype=replies[0][0][name].dtype) for name, value in means.items()}
