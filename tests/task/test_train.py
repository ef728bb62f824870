import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from flserve_app.errors import TaskError
from flserve_app.task import Examples, TaskSpec, client_data, task_data
from flserve_app.task.models import build_model
from flserve_app.task.sgd import Sgd
from flserve_app.task.state import to_artifact
from flserve_app.task.train import evaluate, predict, train

SPEC = TaskSpec(name="synthetic", num_clients=2, seed=1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mlp(seed=0):
    return build_model("mlp", input_shape=(32,), classes=10, seed=seed)


def trained(model=None, seed=5, **values):
    model = model or mlp()
    settings = {"epochs": 2, "batch_size": 32, "lr": 0.05, **values}
    report = train(model, client_data(SPEC, 0)[0], seed=seed, **settings)
    return to_artifact(model), report


def test_training_repeats_bit_for_bit_and_the_seed_decides():
    assert trained()[0] == trained()[0]
    assert trained(seed=6)[0] != trained()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model", "lr", "most"),
    [("digits", "resnet", 0.05, 0.5), ("chars", "chartransformer", 0.05, 3.3)],
)
def test_deeper_models_learn_and_repeat_bit_for_bit(task, model, lr, most):
    data = task_data(TaskSpec(name=task, seed=1))
    examples, test = data.train.take(np.arange(1400)), data.test.take(np.arange(359))
    shape, classes = data.input_shape, len(data.classes)
    found = []
    for _ in range(2):
        module = build_model(model, input_shape=shape, classes=classes, seed=1, input_dtype=data.input_dtype)
        train(module, examples, epochs=2, batch_size=32, lr=lr, momentum=0.9, seed=1)
        found.append(to_artifact(module))
    assert found[0] == found[1]
    assert evaluate(module, test)[0] < most


def test_training_learns():
    model = mlp()
    before, _ = evaluate(model, task_data(SPEC).test)
    _, report = trained(model, epochs=20)
    after, accuracy = evaluate(model, task_data(SPEC).test)
    assert report["train_loss"] < after < before
    assert 0.3 < accuracy < 0.8
    assert 0 < report["seconds"] < 60


def test_train_loss_is_the_mean_over_rows_of_the_last_epoch():
    model, examples = mlp(), client_data(SPEC, 0)[0]
    report = train(model, examples, epochs=2, batch_size=64, lr=0.0, seed=0)
    assert report["train_loss"] == pytest.approx(evaluate(model, examples)[0], rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_takes_the_steps_of_torchs_to_the_bit(momentum):
    ours, theirs = mlp(), mlp()
    steps = (Sgd(ours, lr=0.1, momentum=momentum), torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=momentum))
    examples = client_data(SPEC, 0)[0]
    inputs, labels = torch.tensor(examples.inputs), torch.tensor(examples.labels)
    for start in range(0, 160, 32):
        for model, step in zip((ours, theirs), steps, strict=True):
            batch = slice(start, start + 32)
            model.zero_grad()
            functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            step.step()
    assert to_artifact(ours) == to_artifact(theirs)


def test_the_proximal_term_is_half_mu_times_the_squared_distance():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    starts = [parameter.detach().clone() for parameter in theirs.parameters()]
    proximal, plain = Sgd(ours, lr=0.1, proximal=0.7), Sgd(theirs, lr=0.1)
    inputs = torch.arange(6.0).reshape(2, 3)
    for _ in range(4):
        ours(inputs).square().mean().backward()
        proximal.step()
        pull = sum(
            (parameter - start).square().sum() for parameter, start in zip(theirs.parameters(), starts, strict=True)
        )
        (theirs(inputs).square().mean() + 0.35 * pull).backward()
        plain.step()
    assert torch.allclose(ours.weight, theirs.weight, rtol=1e-4)
    assert trained(proximal=10.0)[0] != trained()[0]


def test_frozen_parameters_stay():
    model = mlp()
    model[1].weight.requires_grad = False
    before = model[1].weight.clone()
    trained(model)
    assert torch.equal(model[1].weight, before)
    assert not torch.equal(model[3].weight, mlp()[3].weight)


def test_parameters_without_a_gradient_stay():
    model = nn.Linear(3, 2)
    step = Sgd(model, lr=0.1)
    model.weight.sum().backward()
    before = model.bias.clone()
    step.step()
    assert torch.equal(model.bias, before)


def test_dropout_follows_the_seed_and_the_callers_random_state_stays():
    def with_dropout():
        return nn.Sequential(mlp(), nn.Dropout(0.5))

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, _ = trained(with_dropout())
    assert torch.equal(torch.rand(1), expected)
    assert trained(with_dropout())[0] == first


def test_modes_are_put_back():
    model = build_model("cnn", input_shape=(1, 8, 8), classes=10, seed=0, width=2, norm=True)
    digits = task_data(TaskSpec()).test
    model.eval()
    train(model, digits, epochs=1, batch_size=128, lr=0.1, seed=0)
    assert not model.training
    assert model[1].num_batches_tracked == 3
    model.train()
    evaluate(model, digits)
    assert model.training
    assert model[1].num_batches_tracked == 3


def test_stale_gradients_are_not_used():
    model = mlp()
    model(torch.ones(1, 32)).sum().backward()
    assert trained(model)[0] == trained()[0]


def test_evaluate_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Identity())
    examples = Examples.of([[0.0, 0.0], [5.0, 0.0], [0.0, 3.0]], [0, 0, 0])
    loss, accuracy = evaluate(model, examples, batch_size=2)
    assert accuracy == pytest.approx(2 / 3)
    assert loss == pytest.approx((np.log(2) + np.log1p(np.exp(-5)) + np.log1p(np.exp(3))) / 3)


def test_predictions_do_not_depend_on_the_batches_and_may_be_none():
    model, inputs = mlp(), task_data(SPEC).test.inputs
    logits = predict(model, inputs)
    assert logits.dtype == np.float32
    assert logits.shape == (200, 10)
    assert np.allclose(logits, predict(model, inputs, batch_size=7), atol=1e-6)
    assert predict(model, inputs[:0]).shape == (0, 10)


@pytest.mark.parametrize("values", [{"epochs": 0}, {"batch_size": 0}])
def test_training_on_nothing_is_refused(values):
    with pytest.raises(TaskError, match=r"cannot train \d epochs on 200 examples in batches of \d+"):
        trained(**values)


def test_no_examples_are_refused():
    none = client_data(SPEC, 0)[0].take(np.arange(0))
    with pytest.raises(TaskError, match="cannot train 1 epochs on 0 examples"):
        train(mlp(), none, epochs=1, batch_size=1, lr=0.1, seed=0)
    with pytest.raises(TaskError, match="cannot evaluate on no examples"):
        evaluate(mlp(), none)
