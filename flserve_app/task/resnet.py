"""A small residual network with batch normalisation.

Source: He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027 (normalise, then activate).
BatchNorm's running statistics are part of the state, and so of every version.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from torch.nn import functional

from flserve_app.errors import TaskError

FEWEST_PIXELS = 8
MAX_BLOCKS = 64
_STAGES = 3


@final
class ResNet(nn.Module):
    """A convolution, three stages of residual blocks, the mean over the pixels, and a linear layer.

    With one block a stage, width 16 and one channel it has 77,562 parameters for ten classes.

    Args:
        input_shape: Channels, height and width; 8x8 pixels or more.
        classes: Number of classes.
        width: Channels of the first stage; each later one has twice as many, on half as many pixels a side.
        blocks: Residual blocks a stage.

    Raises:
        TaskError: If the images are too small, or there are over 64 blocks a stage.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, width: int, blocks: int) -> None:
        channels, height, breadth = input_shape
        if min(height, breadth) < FEWEST_PIXELS:
            raise TaskError(f"model 'resnet' takes images of 8x8 pixels or more, found {height}x{breadth}")
        if blocks > MAX_BLOCKS:
            raise TaskError(f"model 'resnet': blocks is {blocks}, at most {MAX_BLOCKS} are allowed")
        super().__init__()
        self.stem = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        sizes = [width * 2**stage for stage in range(_STAGES)]
        self.blocks = nn.Sequential(
            *(
                _Block(size if block else max(size // 2, width), size, stride=2 if stage and not block else 1)
                for stage, size in enumerate(sizes)
                for block in range(blocks)
            )
        )
        self.norm = nn.BatchNorm2d(sizes[-1])
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Take images, float32 (batch, channels, height, width), to logits, float32 (batch, classes)."""
        features = functional.relu(self.norm(self.blocks(self.stem(images))))
        logits: torch.Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


@final
class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, stride=stride, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False)
        same = channels_in == channels_out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        activated = functional.relu(self.norm1(images))
        changed: torch.Tensor = self.conv2(functional.relu(self.norm2(self.conv1(activated))))
        return changed + (images if self.shortcut is None else self.shortcut(activated))
