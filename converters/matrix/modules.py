"""Small modules of PyTorch that the matrix converts."""

import torch
from torch import nn


def perceptron() -> nn.Module:
    """Return an MLP: FP32 [rows, 4] in, three probabilities out."""
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3), nn.Softmax(-1))


def convolutions() -> nn.Module:
    """Return a CNN: FP32 [rows, 1, 5, 5] in, ten numbers out."""
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))


class Attention(nn.Module):  # type: ignore[misc]  # untyped where torch is not installed
    """A small transformer: INT64 tokens [rows, 12] below 50 in, three numbers out."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embedding = nn.Embedding(50, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the mean over tokens of what attention makes of them."""
        found: torch.Tensor = self.head(self.encoder(self.embedding(tokens)).mean(1))
        return found
