"""Plain FedAvg on a task's data, written apart from the product, to compare accuracies with.

`python -m tests.oracle` prints the table for the tutorial: 15 clients, 8 a round, 30 rounds;
`python -m tests.oracle mnist` the accuracy of experiment=mnist over seeds, in about a minute each.
"""

import random
import statistics
import sys
import time

import numpy as np
import torch
from torch.nn import functional

from flserve_app.task import TaskSpec, client_data, task_data
from flserve_app.task.models import build_model

TUTORIAL = {"num_rounds": 30, "clients_per_round": 8, "epochs": 3, "batch_size": 32, "lr": 0.01}
MNIST = {"num_rounds": 40, "clients_per_round": 5, "epochs": 2, "batch_size": 32, "lr": 0.05}


def plain_fedavg(spec, model, *, num_rounds, clients_per_round, epochs, batch_size, lr, seed, **arguments):
    """Return the accuracy on the test set after each round."""
    task = task_data(spec)
    shape, classes = task.input_shape, len(task.classes)
    net = build_model(model, input_shape=shape, classes=classes, seed=seed, input_dtype=task.input_dtype, **arguments)
    weights = [value.detach().clone() for value in net.state_dict().values()]
    picker, order = random.Random(seed), np.random.default_rng(seed)
    accuracies = []
    for _ in range(num_rounds):
        total, summed = 0, [torch.zeros_like(value) for value in weights]
        for client in picker.sample(range(spec.num_clients), clients_per_round):
            examples, _ = client_data(spec, client)
            _install(net, weights)
            _fit(net, examples, order, epochs=epochs, batch_size=batch_size, lr=lr)
            total += len(examples)
            for into, value in zip(summed, net.state_dict().values(), strict=True):
                into += len(examples) * value.to(into.dtype)
        weights = [value / total for value in summed]
        _install(net, weights)
        accuracies.append(_accuracy(net, task.test))
    return accuracies


def _install(net, weights):
    net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)))


def _fit(net, examples, order, *, epochs, batch_size, lr):
    inputs, labels = torch.tensor(examples.inputs), torch.tensor(examples.labels)
    net.train()
    for _ in range(epochs):
        shuffled = order.permutation(len(labels))
        for start in range(0, len(labels), batch_size):
            batch = shuffled[start : start + batch_size]
            loss = functional.cross_entropy(net(inputs[batch]), labels[batch])
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter -= lr * gradient


def _accuracy(net, examples):
    net.eval()
    with torch.no_grad():
        predicted = net(torch.tensor(examples.inputs)).argmax(dim=1).numpy()
    return float(np.mean(predicted == examples.labels))


def mnist():
    for seed in (42, 1):
        started = time.perf_counter()
        spec = TaskSpec(name="mnist5k", num_clients=10, seed=seed, scheme="dirichlet", alpha=0.5)
        last = plain_fedavg(spec, "cnn", seed=seed, **MNIST)[-5:]
        row = "  ".join(f"{accuracy:.3f}" for accuracy in last)
        print(f"mnist5k cnn seed {seed}: last five rounds {row}  {time.perf_counter() - started:.0f} s", flush=True)


def tutorial():
    seeds = [1, 2, 3, 4, 5, 6, 42]
    for scheme in ("iid", "dirichlet"):
        started, finals = time.perf_counter(), []
        for seed in seeds:
            spec = TaskSpec(name="synthetic", num_clients=15, seed=seed, scheme=scheme, alpha=0.5)
            finals.append(plain_fedavg(spec, "mlp", seed=seed, **TUTORIAL)[-1])
        seconds = (time.perf_counter() - started) / len(seeds)
        row = "  ".join(f"{seed}: {final:.3f}" for seed, final in zip(seeds, finals, strict=True))
        print(f"{scheme:10s} {row}  mean of 1 to 6: {statistics.mean(finals[:6]):.3f}  {seconds:.1f} s a seed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    mnist() if sys.argv[1:] == ["mnist"] else tutorial()
