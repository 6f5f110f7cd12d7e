"""Checkpoints of the authors' release, written and answered from their description alone.

Every convolution and linear layer has a score of its weight's shape beside it, the prompt is a
full plane and the mask of where it acts, and the threshold of the scores is not stored.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def frame(side: int, width: int) -> Tensor:
    """Return four strips of ones, (3, side, side)."""
    mask = torch.ones(3, side, side)
    mask[:, width : side - width, width : side - width] = 0
    return mask


def corner(side: int, square: int) -> Tensor:
    """Return a square of ones in the top-left corner, (3, side, side)."""
    mask = torch.zeros(3, side, side)
    mask[:, :square, :square] = 1
    return mask


class Checkpoint:
    """What training with the release leaves, with random values.

    Args:
        net: The network; biases of its convolutions are dropped where ``drop`` says so.
        classes: Target classes.
        density: Fraction of weights kept.
        region: Where the prompt acts, (3, S, S) of zeros and ones.
        squash: The prompt's values go through a sigmoid.
        drop: The release builds VGG's convolutions without biases.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        classes: int,
        density: float,
        region: Tensor,
        squash: bool = False,
        drop: bool = False,
    ) -> None:
        draw = torch.Generator().manual_seed(5)
        self.net, self.region, self.squash = net.eval(), region, squash
        self.scores: dict[str, Tensor] = {}
        for name, module in net.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2, generator=draw)
                module.running_mean.normal_(0, 0.1, generator=draw)
            if isinstance(module, nn.Conv2d | nn.Linear):
                self.scores[name] = torch.randn(module.weight.shape, generator=draw)
                # activations neither grow nor vanish, although only the density is kept
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=draw)
                with torch.no_grad():
                    module.weight.div_(density**0.5)
            if isinstance(module, nn.Conv2d) and drop:
                module.bias = None
        head = list(self.scores)[-1]
        source = len(net.get_parameter(f"{head}.weight"))
        self.rows = torch.randperm(source, generator=draw)[:classes]
        self.program = torch.randn(region.shape, generator=draw)
        ranked = torch.cat([score.abs().flatten() for score in self.scores.values()])
        k = int((1 - density) * len(ranked))
        self.threshold = float(ranked.sort().values[k - 1]) if k >= 1 else -1.0

    def content(self) -> dict[str, Any]:
        """Return what is pickled."""
        state = {key: value.clone() for key, value in self.net.state_dict().items()}
        state |= {f"{name}.popup_scores": score for name, score in self.scores.items()}
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.01, momentum=0.9)
        return {
            "state_dict": state,
            "init_weight": {},
            "weight_optimizer": optimizer.state_dict(),
            "visual_prompt": {"program": self.program, "mask": self.region},
            "mapping_sequence": self.rows,
            "val_best_acc": 0.5,
            "all_results": {"train_acc": [0.25], "val_acc": [0.5]},
            "epoch": 29,
            "state": 0,
        }

    def save(self, path: Path, **changes: Any) -> Path:
        """Write the file, with some values of its content replaced."""
        torch.save({**self.content(), **changes}, path)
        return path

    @torch.no_grad()
    def logits(self, images: Tensor, *, prompted: bool) -> Tensor:
        """Return target logits (N, C) of images (N, 3, i, i) in [0, 1]."""
        if prompted:
            gap = self.region.shape[-1] - images.shape[-1]
            sides = ((gap + 1) // 2, gap // 2)
            added = torch.sigmoid(self.program) if self.squash else self.program
            padded = functional.pad(images, (*sides, *sides))
            images = (padded + added * self.region).clamp(0, 1)
        weights = {
            f"{name}.weight": self.net.get_parameter(f"{name}.weight")
            * (score.abs() > self.threshold)
            for name, score in self.scores.items()
        }
        return functional_call(self.net, weights, ((images - MEAN) / STD,))[:, self.rows]
