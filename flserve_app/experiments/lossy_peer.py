"""What a peer of the rounding codecs is: a way to send the change of a model with an error.

A peer gets the change, tensor by tensor, and gives back something like it. Both sides know the model's names and
shapes, and a seed where it needs randomness: none of these is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Change = Mapping[str, npt.NDArray[np.float32]]
Flat = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a peer sends.

    Attributes:
        nbytes: How much it is.
        content: Whatever its decoder takes.
    """

    nbytes: int
    content: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LossyPeer:
    """One way to send a change.

    Attributes:
        name: What it is called in the table.
        encode: Returns what is sent of a change, float32 tensors of any shape.
        decode: Returns the change that it stands for, of the shapes of the change in the second argument.
    """

    name: str
    encode: Callable[[Change], Sent]
    decode: Callable[[Sent, Change], Change]


def flat_peer(name: str, encode: Callable[[Flat], bytes], decode: Callable[[bytes, int], Flat]) -> LossyPeer:
    """Return a peer that takes all tensors as one vector (n,), which spares it any cost a tensor.

    Args:
        name: Of the peer.
        encode: Returns the bytes of a vector.
        decode: Returns a vector of so many values from them.
    """

    def pack(change: Change) -> Sent:
        data = encode(np.concatenate([array.ravel() for array in change.values()]))
        return Sent(nbytes=len(data), content=data)

    def unpack(sent: Sent, like: Change) -> Change:
        sizes = [array.size for array in like.values()]
        parts = np.split(decode(sent.content, sum(sizes)), np.cumsum(sizes)[:-1])
        return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}

    return LossyPeer(name=name, encode=pack, decode=unpack)


def tensor_peer(
    name: str, encode: Callable[[npt.NDArray[np.float32]], Sent], decode: Callable[[Any], npt.NDArray[Any]]
) -> LossyPeer:
    """Return a peer that sends each tensor by itself.

    Args:
        name: Of the peer.
        encode: Returns what is sent of a tensor.
        decode: Returns the tensor from its content, in any shape.
    """

    def pack(change: Change) -> Sent:
        sent = {key: encode(array) for key, array in change.items()}
        return Sent(nbytes=sum(each.nbytes for each in sent.values()), content=sent)

    def unpack(sent: Sent, like: Change) -> Change:
        return {
            key: np.asarray(decode(each.content), np.float32).reshape(like[key].shape)
            for key, each in sent.content.items()
        }

    return LossyPeer(name=name, encode=pack, decode=unpack)
