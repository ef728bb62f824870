"""What every codec must do: subclass, give its name, inherit the tests.

A lossless codec gives back every bit. Of a codec that rounds, a holder of the payload has what was `published`, which
is the target of the exactness tests.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from flserve_app.artifact import Artifact
from flserve_app.codec import CODECS, decode, encode, encode_rounded, inspect, round_to
from flserve_app.codec.ties import ties_of
from flserve_app.errors import CodecError, WrongBase
from tests.codec.examples import artifacts, halved, network, nudged, pairs, repeated_pairs, trained

LARGE_AND_SMALL = {"first": (600, 500), "bias": (600,), "moved": (500, 550), "tiny": (), "last": (270_000,)}

relaxed = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class CodecContract:
    codec: ClassVar[str]

    def published(self, target: Artifact, base: Artifact | None) -> Artifact:
        return target

    @pytest.fixture
    def base(self) -> Artifact:
        return Artifact(network(1))

    @pytest.fixture
    def target(self) -> Artifact:
        return Artifact(trained(network(1), 1))

    def test_is_registered_under_its_name(self):
        assert CODECS[self.codec].name == self.codec

    @relaxed
    @given(artifacts())
    def test_full_payload_gives_back_every_bit(self, artifact):
        assert decode(encode(artifact, codec=self.codec)).manifest == self.published(artifact, None).manifest

    @relaxed
    @given(pairs())
    def test_delta_gives_back_every_bit_whatever_changed(self, pair):
        base, target = pair
        assert decode(encode(target, base, self.codec), base).manifest == self.published(target, base).manifest

    @relaxed
    @given(repeated_pairs())
    def test_tensors_that_repeat_are_given_back_to_the_last_bit(self, pair):
        base, target = pair
        for held in (None, base):
            published = self.published(target, held)
            payload = encode(target, held, self.codec)
            assert decode(payload, held).manifest == published.manifest
            plainly = encode(target, held, self.codec, ties=False)
            assert decode(plainly, held).manifest == published.manifest
            assert len(payload) <= len(plainly)
            assert "tied" not in {tensor.op for tensor in inspect(plainly).tensors}
            assert set(ties_of(target)) <= set(ties_of(published)), "what is tied stays tied"

    def test_bfloat16_delta(self):
        base, target = halved(network(1)), halved(trained(network(1), 1))
        payload = encode(target, base, self.codec)
        assert decode(payload, base) == self.published(target, base)

    def test_encoding_is_deterministic(self, base, target):
        again = Artifact({name: array.copy() for name, array in target.items()})
        assert encode(target, base, self.codec) == encode(again, base, self.codec)

    def test_payload_is_never_much_larger_than_raw(self, base):
        noise = np.random.RandomState(0).bytes(4096)
        target = Artifact({f"t{i}": np.frombuffer(noise, np.uint8) for i in range(20)})
        overhead = len(encode(target, base, self.codec)) - target.nbytes
        assert overhead <= 150 + 20 * 12

    def test_delta_is_never_larger_than_full(self, base, target):
        spare = Artifact(network(2))
        for held in (base, spare):
            assert len(encode(target, held, self.codec)) <= len(encode(target, codec=self.codec)) + 33

    def test_decoded_tensors_are_read_only(self, base, target):
        decoded = decode(encode(target, base, self.codec), base)
        assert not any(array.flags.writeable for array in decoded.values())

    def test_memoryview_is_read(self, base, target):
        payload = encode(target, base, self.codec)
        assert decode(memoryview(payload), base) == self.published(target, base)

    def test_chain_equals_direct(self):
        weights = [network(1)]
        for step in range(5):
            weights.append(trained(weights[-1], step))
        versions = [Artifact(each) for each in weights]
        held = decode(encode(versions[0], codec=self.codec))
        for version in versions[1:]:
            held = decode(encode(version, held, self.codec), held)
        assert held == self.published(versions[-1], None)

    def test_inspect_needs_no_base(self, base, target):
        payload = encode(target, base, self.codec)
        info = inspect(payload)
        assert (info.codec, info.declared_bytes) == (self.codec, target.nbytes)
        assert info.target == self.published(target, base).digest
        assert info.base == (base.digest if CODECS[self.codec].uses_base else None)
        assert len(info.tensors) == len(target)
        assert 0 < len(payload) - sum(tensor.nbytes for tensor in info.tensors) < 500

    def test_another_base_is_refused(self, base, target):
        payload = encode(target, base, self.codec)
        if inspect(payload).base is None:
            assert decode(payload, Artifact(network(2))) == self.published(target, None)
            return
        with pytest.raises(WrongBase, match=base.digest):
            decode(payload, Artifact(network(2)))
        with pytest.raises(WrongBase, match=base.digest):
            decode(payload)

    def test_target_over_the_bound_is_refused(self, base, target):
        payload = encode(target, base, self.codec)
        decode(payload, base, max_bytes=target.nbytes)
        with pytest.raises(CodecError, match=f"{target.nbytes} bytes, at most {target.nbytes - 1}"):
            decode(payload, base, max_bytes=target.nbytes - 1)

    def test_large_tensor_goes_in_chunks(self):
        old = np.random.RandomState(0).normal(0, 0.1, (700, 400)).astype("f4")
        new = nudged("float32", old, 1, most=50)
        base, target = Artifact({"w": old}), Artifact({"w": new})
        assert decode(encode(target, base, self.codec), base) == self.published(target, base)
        assert decode(encode(target, codec=self.codec)) == self.published(target, None)

    def test_large_and_small_tensors_keep_their_order(self):
        random = np.random.RandomState(0)
        old = {name: random.normal(0, 0.1, shape).astype("f4") for name, shape in LARGE_AND_SMALL.items()}
        # Unrelated to the base, so that a delta is no better than a full layout and both are packed.
        new = {name: random.normal(0, 0.1, array.shape).astype("f4") for name, array in old.items()}
        new["moved"] = nudged("float32", old["moved"], 1, most=50)
        base, target = Artifact(old), Artifact(new)
        payload = encode(target, base, self.codec)
        assert decode(payload, base) == self.published(target, base)
        assert [tensor.name for tensor in inspect(encode(target, codec=self.codec)).tensors] == list(LARGE_AND_SMALL)
        assert len(payload) <= target.nbytes + 150 + 12 * len(target)


class RoundingContract(CodecContract):
    def published(self, target: Artifact, base: Artifact | None) -> Artifact:
        return target if base is None else round_to(target, base, CODECS[self.codec].rounding).artifact

    def test_it_says_that_it_rounds(self):
        assert not CODECS[self.codec].exact

    def test_chain_equals_direct(self):
        wanted = held = served = Artifact(network(1))
        for step in range(5):
            wanted = Artifact(trained(dict(wanted), step))
            payload = encode(wanted, served, self.codec)
            served = self.published(wanted, served)
            held = decode(payload, held)
            assert held == served
        assert decode(encode(held, codec="lossless")) == held

    def test_what_was_rounded_is_encoded_as_it_is(self, base, target):
        rounded = round_to(target, base, CODECS[self.codec].rounding)
        payload = encode_rounded(rounded, base, self.codec)
        assert payload == encode(target, base, self.codec)
        assert decode(payload, base) == rounded.artifact != target

    def test_delta_is_far_below_lossless(self):
        old = network(1, rows=512, columns=256)
        base, target = Artifact(old), Artifact(trained(old, 1))
        assert len(encode(target, base, self.codec)) < 0.1 * len(encode(target, base, "lossless-small"))
