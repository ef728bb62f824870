import numpy as np

from flserve_app.experiments.lossy_peer import Sent, flat_peer, tensor_peer

CHANGE = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.float32(7) * np.ones((), "f4")}


def test_a_flat_peer_sees_one_vector_in_order():
    seen = []

    def encode(vector):
        seen.append(vector.tolist())
        return vector.tobytes()

    peer = flat_peer("flat", encode, lambda data, count: np.frombuffer(data, "f4", count))
    sent = peer.encode(CHANGE)
    assert seen == [[0, 1, 2, 3, 4, 5, 7]]
    assert sent.nbytes == 28
    found = peer.decode(sent, CHANGE)
    for name, array in CHANGE.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_a_tensor_peer_pays_for_each_tensor():
    peer = tensor_peer("each", lambda tensor: Sent(nbytes=tensor.nbytes + 1, content=tensor.ravel()), lambda flat: flat)
    sent = peer.encode(CHANGE)
    assert sent.nbytes == 28 + 2
    found = peer.decode(sent, CHANGE)
    assert [array.shape for array in found.values()] == [(2, 3), ()]
    assert found["b"] == 7
