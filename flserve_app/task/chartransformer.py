"""A small transformer that reads a window of characters and says which comes next.

Source: Vaswani et al., arXiv:1706.03762, with the normalisation before each part (Xiong et al., arXiv:2002.04745).
Attention is written out as two products and a softmax: torch's fused kernels choose by version and machine. Every
character of a window is before the one asked for, so there is no mask; only the last place is read, so the last
layer computes no other. Nothing is dropped out: clients train for few steps.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import nn
from torch.nn import functional

from flserve_app.errors import TaskError

MAX_LAYERS = 256


@final
class CharTransformer(nn.Module):
    """Embeddings of character and place, attention layers, and a linear layer on the last place.

    With its defaults, 32 characters a window and 64 classes it has 110,400 parameters.

    Args:
        context: Characters in a window.
        classes: Number of different characters, of input and output.
        width: Length of a character's vector.
        heads: Attention heads a layer; they share out the width.
        layers: Number of layers.

    Raises:
        TaskError: If the heads cannot share out the width, or there are over 256 layers.
    """

    def __init__(self, context: int, classes: int, *, width: int, heads: int, layers: int) -> None:
        if width % heads:
            raise TaskError(f"model 'chartransformer': width {width} cannot be shared out to {heads} heads")
        if layers > MAX_LAYERS:
            raise TaskError(f"model 'chartransformer': layers is {layers}, at most {MAX_LAYERS} are allowed")
        super().__init__()
        self.character = _embedding(classes, width)
        self.place = _embedding(context, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Take character numbers, int64 (batch, context), to logits, float32 (batch, classes).

        Raises:
            TaskError: If a number is not that of a character.
        """
        classes = self.character.num_embeddings
        if windows.numel() and not 0 <= int(windows.min()) <= int(windows.max()) < classes:
            raise TaskError(f"model 'chartransformer': a character number is not in 0 to {classes - 1}")
        states = self.character(windows) + self.place.weight
        for number, layer in enumerate(self.layers, start=1):
            states = layer(states, states[:, -1:] if number == len(self.layers) else states)
        logits: torch.Tensor = self.head(self.norm(states[:, -1]))
        return logits


def _embedding(entries: int, width: int) -> nn.Embedding:
    # Made from memory that nothing was drawn into: drawing on the meta device imports 800 modules, a second.
    return nn.Embedding(entries, width, _weight=torch.empty(entries, width))


@final
class _Layer(nn.Module):
    """Attention from some places to all of them, then two linear layers at each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.mixed = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, states: torch.Tensor, asking: torch.Tensor) -> torch.Tensor:
        """Return float32 (batch, asking, width) for states (batch, context, width) and the places that ask."""
        key, value = self.key_value(self.norm1(states)).chunk(2, dim=-1)
        attended = self._attend(self.query(self.norm1(asking)), key, value)
        asking = asking + self.mixed(attended)
        changed: torch.Tensor = self.contract(functional.gelu(self.expand(self.norm2(asking))))
        return asking + changed

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        queries, keys, values = self._split(query), self._split(key), self._split(value)
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        mixed = scores.softmax(dim=-1) @ values
        return mixed.transpose(1, 2).flatten(-2)

    def _split(self, places: torch.Tensor) -> torch.Tensor:
        """Return (batch, heads, places, width / heads) for (batch, places, width)."""
        batch, count, width = places.shape
        return places.view(batch, count, self.heads, width // self.heads).transpose(1, 2)
