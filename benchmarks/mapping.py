"""Mapping pass: what fitting the frequency mapping runs and keeps, counted.

    python benchmarks/mapping.py

The dense network sees every training image once, and of what it predicts only counters are kept.
They are compared with the counts taken from all logits at once.
"""

from __future__ import annotations

import torch
from _harness import Figure, parser, report
from torch import Tensor, nn

from vpns_lightning.network import FrequencyMapping, PromptedClassifier

SOURCES, TARGETS = 1000, 100


class Seen(nn.Module):
    """A classifier that answers from the images' mean, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3)
        self.fc = nn.Linear(16, SOURCES)
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (N, 1000)."""
        self.images += len(images)
        logits: Tensor = self.fc(self.body(images).mean((2, 3)))
        return logits


def from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return counts of (prediction, label) the plain way, from all logits at once."""
    predicted = nn.functional.one_hot(logits.argmax(1), SOURCES)
    wanted = nn.functional.one_hot(labels, TARGETS)
    return predicted.T.float() @ wanted.float()


def main() -> None:
    """Count, compare, time."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--images", type=int, default=4096, help="training images")
    args = options.parse_args()
    torch.manual_seed(0)
    backbone = Seen()
    network = PromptedClassifier(backbone, TARGETS, mapping=FrequencyMapping())
    images, labels = torch.rand(args.images, 3, 8, 8), torch.randint(TARGETS, (args.images,))
    batches = list(zip(images.split(256), labels.split(256), strict=True))
    backbone.images = 0  # building the network showed it one, to learn its classes
    counts = network.count_predictions(batches)
    passes = backbone.images / args.images
    with torch.inference_mode():
        logits = torch.cat([network.source_logits(part) for part, _ in batches])
    assert torch.equal(from_logits(logits, labels).long(), counts.long())
    print(f"counts of {args.images} images equal those of all logits kept")
    size = counts.numel() * counts.element_size() / 2**20
    report(
        [
            Figure("mapping pass: image forwards over training images", 1, passes, passes),
            Figure("mapping pass: what it keeps", 1, size, size, "MB"),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
