"""Adam's steps are torch's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from flserve_app.task.adam import Adam


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def stepped(made, optimizer, steps=20):
    inputs, labels = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 3
    for _ in range(steps):
        made.zero_grad()
        functional.cross_entropy(made(inputs), labels).backward()
        optimizer.step()
    return list(made.parameters())


def test_steps_are_those_of_torch():
    ours, theirs = module(), module()
    mine = stepped(ours, Adam(ours, lr=0.01))
    for one, other in zip(mine, stepped(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_what_is_frozen_stays_and_a_proximal_term_holds_back():
    frozen = module()
    frozen[0].weight.requires_grad_(False)
    before = frozen[0].weight.clone()
    stepped(frozen, Adam(frozen, lr=0.01))
    assert torch.equal(frozen[0].weight, before)
    start, free, held = list(copy.deepcopy(module()).parameters()), module(), module()
    stepped(free, Adam(free, lr=0.01))
    stepped(held, Adam(held, lr=0.01, proximal=10.0))

    def distance(made):
        return sum(float((one - other).detach().norm()) for one, other in zip(made.parameters(), start, strict=True))

    assert distance(held) < distance(free)


@pytest.mark.parametrize("steps", [1, 3])
def test_few_steps_move_all_values_alike(steps):
    made = module()
    start = [parameter.detach().clone() for parameter in made.parameters()]
    moves = torch.cat(
        [(a - b).detach().ravel().abs() for a, b in zip(stepped(made, Adam(made, lr=0.01), steps), start, strict=True)]
    )
    assert float(moves[moves > 0].max()) <= 0.01 * steps * 1.01
