"""Codecs of a configuration, and what they are refused together with before anything starts."""

import pytest

from flserve_app.codec.feedback import Feedback
from flserve_app.codec.lossy import Lossy
from flserve_app.compose.codecs import check_codecs, codec_of
from flserve_app.compose.strategies import ARGUMENTS, inner_strategy
from flserve_app.config import CodecConfig, load
from flserve_app.errors import ConfigError
from tests.compose.jobs import composed

NO_SPARSE = {"fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"}
REQUIRED = {"qfedavg": ["strategy.arguments.client_learning_rate=0.05"]}
KINDS = ["none", "server_fixed", "server_adaptive", "client_fixed", "client_adaptive", "local"]


def check(*overrides):
    app = composed(*overrides).app
    check_codecs(app, inner_strategy(app.strategy, 10))


@pytest.mark.parametrize("strategy", ARGUMENTS)
@pytest.mark.parametrize("uplink", ["topk", "grid"])
def test_sparse_updates_are_refused_where_replies_are_compared(strategy, uplink):
    named = [f"strategy.name={strategy}", f"uplink={uplink}", *REQUIRED.get(strategy, [])]
    if uplink == "topk" and strategy in NO_SPARSE:
        with pytest.raises(ConfigError, match=r"uplink topk cannot be combined with .*: it compares replies"):
            check(*named)
    else:
        check(*named)


@pytest.mark.parametrize(
    "kind", ["none", "server_fixed", "server_adaptive", "client_fixed", "client_adaptive", "local"]
)
@pytest.mark.parametrize("uplink", ["topk", "grid"])
def test_feedback_is_refused_behind_a_clients_clipping_and_noise(kind, uplink):
    settings = [f"strategy.dp.kind={kind}", "strategy.dp.noise_multiplier=0", f"uplink={uplink}"]
    if kind in ("client_fixed", "client_adaptive", "local"):
        said = "local privacy: its noise" if kind == "local" else "its clipping has to see the last word"
        refused = f"uplink {uplink} with error feedback .*{said}.*uplink.arguments.decay=0"
        with pytest.raises(ConfigError, match=refused):
            check(*settings)
        check(*settings, "uplink.arguments.decay=0")
    else:
        check(*settings)


def test_dither_is_for_updates_without_feedback():
    settings = ["uplink=grid", "uplink.arguments.dither=true"]
    with pytest.raises(ConfigError, match="dither cannot be combined with error feedback"):
        check(*settings, "uplink.arguments.decay=1.0")
    check(*settings, "uplink.arguments.decay=0")
    with pytest.raises(ConfigError, match=r"codec grid cannot be dithered: .*; dither is for the uplink"):
        check("codec=grid", "codec.arguments.dither=true", "codec.arguments.decay=0")


def test_files_of_lossy_codecs_say_the_defaults():
    for place in ("codec", "uplink"):
        app = load([f"{place}=grid"]).app
        assert codec_of(getattr(app, place), place) == Lossy(name="grid", feedback=Feedback())
        app = load([f"{place}=topk"]).app
        assert codec_of(getattr(app, place), place) == Lossy(name="topk", feedback=Feedback())
    assert codec_of(CodecConfig(name="lossless"), "codec") == "lossless"
