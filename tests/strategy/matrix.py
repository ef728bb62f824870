"""Every strategy of the matrix with settings that learn the blobs."""

from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as flower

CLIENTS = 7
SAMPLING = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}

SETTINGS = {
    "FedAvg": {},
    "FedProx": {"proximal_mu": 0.1},
    "FedAvgM": {"server_learning_rate": 0.9, "server_momentum": 0.5},
    "FedAdam": {"eta": 0.1, "tau": 1e-3},
    "FedAdagrad": {"eta": 0.1, "tau": 1e-3},
    "FedYogi": {"eta": 0.1, "tau": 1e-3},
    "QFedAvg": {"client_learning_rate": 0.2, "q": 0.2},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
}
WRAPPERS = {
    "DifferentialPrivacyServerSideFixedClipping": None,
    "DifferentialPrivacyClientSideFixedClipping": fixedclipping_mod,
    "DifferentialPrivacyServerSideAdaptiveClipping": None,
    "DifferentialPrivacyClientSideAdaptiveClipping": adaptiveclipping_mod,
}
STATEFUL = ("FedAvgM", "FedAdam", "FedAdagrad", "FedYogi", *(name for name in WRAPPERS if "Adaptive" in name))


def local_dp(epsilon=1e9):
    return LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=epsilon, delta=1e-5)


def made(name, change=lambda kind: kind, *, noise=0.0, clip=0.4, inside="FedAvg"):
    """Return a strategy by name; `change` may derive a class from its class."""
    kind = change(getattr(flower, name))
    if name in SETTINGS:
        return kind(**SAMPLING, **SETTINGS[name])
    inner = getattr(flower, inside)(**SAMPLING, **SETTINGS[inside])
    if "Adaptive" in name:
        return kind(
            inner, noise_multiplier=noise, num_sampled_clients=CLIENTS, initial_clipping_norm=clip, clip_norm_lr=0.5
        )
    return kind(inner, noise, clip, CLIENTS)
