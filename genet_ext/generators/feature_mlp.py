"""The feature generator H: a two-hidden-layer MLP from parameters to whitened features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 128  # wide enough (256 did no better) and narrow enough for one SM's shared memory


def algebraic_silu(x: Tensor) -> Tensor:
    """SiLU with the algebraic sigmoid: ``0.5 x (1 + x / sqrt(1 + x^2))``.

    Only sqrt and division, both correctly rounded by IEEE 754, so that every backend gives the same bits
    where an exponential would not.
    """
    return 0.5 * x * (1 + x / torch.sqrt(1 + x * x))


class FeatureGenerator(nn.Module):
    """H: theta [B, P] -> whitened features [B, D], by P -> hidden -> hidden -> D."""

    def __init__(self, parameters: int, features: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.layer1 = nn.Linear(parameters, hidden)
        self.layer2 = nn.Linear(hidden, hidden)
        self.layer3 = nn.Linear(hidden, features)

    def forward(self, theta: Tensor) -> Tensor:
        """theta [B, P] -> features [B, D]."""
        hidden = algebraic_silu(self.layer2(algebraic_silu(self.layer1(theta))))
        features: Tensor = self.layer3(hidden)
        return features

    def mlp_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(w1 [H, P], b1 [H], w2 [H, H], b2 [H], w3 [D, H], b3 [D]), as ``ops.fit_mlp_`` takes them."""
        layers = (self.layer1, self.layer2, self.layer3)
        w1, b1, w2, b2, w3, b3 = (t.detach() for layer in layers for t in (layer.weight, layer.bias))
        return w1, b1, w2, b2, w3, b3
