import pytest

from flserve_app.config.keys import known_keys, meant
from flserve_app.config.load import load
from flserve_app.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("num_round", "num_rounds"),
        ("rounds", "num_rounds"),
        ("sede", "seed"),
        ("lr", "train.lr"),
        ("train.momentun", "train.momentum"),
        ("clients_per_round", "strategy.clients_per_round"),
        ("strategy.dp.knd", "strategy.dp.kind"),
        ("trian.lr", "train.lr"),
        ("codec.arguments.scope", None),
        ("xyz", None),
        ("", None),
    ],
)
def test_the_key_that_was_meant(typed, key):
    assert meant(typed) == key


def test_keys_are_those_of_the_schema():
    assert {"seed", "train", "train.lr", "task.hub.side", "strategy.dp.kind"} <= set(known_keys())


def test_it_is_said():
    with pytest.raises(ConfigError, match=r"no key 'num_round'; did you mean 'num_rounds'\? `flserve run --cfg job`"):
        load(["num_round=3"])
    with pytest.raises(ConfigError, match=r"no key 'train.epoch'; did you mean 'train.epochs'\?"):
        load(["+train.epoch=3"])
