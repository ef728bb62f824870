"""Small networks and data for them: a partition's draw, and nothing to load."""

import numpy as np
import torch
from torch import nn

CLASSES = 3


def convolution(seed=0):
    """As in the PyTorch quickstart: convolutions, then two full layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES))


def normalised(seed=0):
    """As MONAI's DenseNet: BatchNorm with its counters."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES))


class Headed(nn.Module):
    """A body, and a head by name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, CLASSES)

    def forward(self, images):
        return self.head(torch.relu(self.body(images.flatten(1))))


class Tied(nn.Module):
    """As nanoGPT: what embeds a token and what foretells the next are one tensor under two names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wte, self.lm_head = nn.Embedding(CLASSES, 8), nn.Linear(8, CLASSES, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, images):
        tokens = images.mean(dim=(1, 2, 3)).round().clamp(0, CLASSES - 1).long()
        return self.lm_head(self.wte(tokens))


class Autoencoder(nn.Module):
    """A variational autoencoder: two outputs of the encoder, noise in between."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.mean, self.spread = nn.Linear(64, 12), nn.Linear(12, 3), nn.Linear(12, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 64))

    def forward(self, images):
        hidden = torch.relu(self.encoder(images.flatten(1)))
        mean, spread = self.mean(hidden), self.spread(hidden)
        return self.decoder(mean + torch.randn_like(mean) * torch.exp(spread / 2)), mean, spread


def data(partition, size=24):
    draw = np.random.default_rng(partition)
    labels = draw.integers(0, CLASSES, size=size)
    images = draw.normal(size=(size, 1, 8, 8)) + labels[:, None, None, None]
    return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def fitted(net, partition, number, lr, loss=nn.functional.cross_entropy):
    """Train a round; returns the last loss. The draw is that of (partition, round)."""
    torch.set_num_threads(1)
    torch.manual_seed(1000 * number + partition)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    images, labels = data(partition)
    for start in range(0, len(labels), 8):
        optimizer.zero_grad()
        found = loss(net(images[start : start + 8]), labels[start : start + 8])
        found.backward()
        optimizer.step()
    return float(found.detach())


def reconstruction(images):
    """The loss of an autoencoder, which has no labels."""

    def loss(made, labels):
        found, mean, spread = made
        apart = -0.5 * torch.mean(1 + spread - mean**2 - spread.exp())
        return nn.functional.mse_loss(found, images[: len(labels)].flatten(1)) + 0.1 * apart

    return loss


def measured(net, partition):
    """Loss, accuracy and accuracy by class, without a change to the network."""
    net.eval()
    images, labels = data(partition)
    with torch.no_grad():
        scores = net(images)
    right = scores.argmax(1) == labels
    by_class = {f"accuracy_class_{each}": float(right[labels == each].float().mean()) for each in range(CLASSES)}
    loss = float(nn.functional.cross_entropy(scores, labels))
    return {"loss": loss, "accuracy": float(right.float().mean()), **by_class}
