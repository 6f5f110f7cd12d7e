"""Small networks and batches in plain torch, the same for a method and for its reference."""

import torch
from torch import Tensor, nn


class ToyNet(nn.Module):
    """Two convolutions with batch normalisation and a linear head, 872 prunable weights.

    Args:
        classes: Outputs of the head.
        seed: Of the random weights.
    """

    def __init__(self, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
            self.bn2 = nn.BatchNorm2d(8)
            self.head = nn.Linear(8, classes)
            for bn in (self.bn1, self.bn2):
                nn.init.uniform_(bn.weight, 0.5, 1.5)
                nn.init.normal_(bn.bias, std=0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images (N, 3, H, W)."""
        hidden = self.bn1(self.conv1(images)).relu()
        hidden = self.bn2(self.conv2(hidden)).relu()
        return self.head(hidden.mean((2, 3)))


class ToyBlock(nn.Module):
    """Attention and an MLP, both after a normalisation and around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.between = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (N, T, width)."""
        shown = self.before(tokens)
        tokens = tokens + self.attention(shown, shown, shown, need_weights=False)[0]
        return tokens + self.mlp(self.between(tokens))


class ToyViT(nn.Module):
    """A transformer of two blocks and four patches, as torchvision builds it.

    Args:
        classes: Outputs of the head.
        seed: Of the random weights.
        size: Side of the images, px.
    """

    def __init__(self, classes: int = 10, seed: int = 0, size: int = 14) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(3, 8, size // 2, size // 2)
            self.position = nn.Parameter(torch.randn(1, 4, 8) / 4)
            self.blocks = nn.Sequential(ToyBlock(8), ToyBlock(8))
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images (N, 3, size, size)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def toy_batches(
    count: int, *, images: int = 6, size: int = 10, classes: int = 4, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Return batches of images (N, 3, size, size) in [0, 1] and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(images, 3, size, size, generator=generator),
            torch.randint(classes, (images,), generator=generator),
        )
        for _ in range(count)
    ]
