"""Structured pruning restated slowly, channel by channel, for one small network with a shortcut.

Written from the published descriptions, which each function names; shares no code with the package.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class ShortcutNet(nn.Module):
    """Two groups of channels: those of ``conv1`` and ``conv2``, which are added, and ``conv3``'s.

    Args:
        classes: Outputs of the head.
        seed: Of weights and of normalisation's statistics.
    """

    def __init__(self, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(3, 5, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(5)
            self.conv2 = nn.Conv2d(5, 5, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(5)
            self.conv3 = nn.Conv2d(5, 4, 3, stride=2, bias=False)
            self.bn3 = nn.BatchNorm2d(4)
            self.head = nn.Linear(4, classes)
            for bn in (self.bn1, self.bn2, self.bn3):
                nn.init.uniform_(bn.weight, -1.5, 1.5)
                nn.init.normal_(bn.bias, std=0.3)
                nn.init.normal_(bn.running_mean, std=0.3)
                nn.init.uniform_(bn.running_var, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images (N, 3, H, W)."""
        first = self.bn1(self.conv1(images)).relu()
        hidden = (self.bn2(self.conv2(first)) + first).relu()
        return self.head(self.bn3(self.conv3(hidden)).relu().mean((2, 3)))


GROUPS = {"conv1": 5, "conv3": 4}


def slices(net: nn.Module, group: str, channel: int) -> list[Tensor]:
    """Return all weights that belong to one channel of one group, as views."""
    if group == "conv1":
        made = [net.conv1.weight[channel], net.conv2.weight[channel]]
        read = [net.conv2.weight[:, channel], net.conv3.weight[:, channel]]
        return [*made, *read, net.bn1.weight[channel], net.bn2.weight[channel]]
    return [net.conv3.weight[channel], net.head.weight[:, channel], net.bn3.weight[channel]]


def energy(net: nn.Module, group: str, channel: int) -> float:
    """Return the sum of squares of a channel's weights."""
    return sum(float((part.detach().double() ** 2).sum()) for part in slices(net, group, channel))


def depgraph_importance(net: nn.Module, group: str, normalizer: str = "mean") -> list[float]:
    """Return the mean over parts of the sums of squares, relative to its mean or maximum.

    Fang et al., 2023 (https://arxiv.org/abs/2301.12900), its group-level importance.

    The published code's own harness takes the maximum after sparse learning ("group_sl"), the mean
    without it ("group_norm").
    """
    parts = len(slices(net, group, 0))
    means = [energy(net, group, channel) / parts for channel in range(GROUPS[group])]
    scale = max(means) if normalizer == "max" else sum(means) / len(means)
    return [value / scale for value in means]


def depgraph_gradients(net: nn.Module, reg: float) -> dict[str, Tensor]:
    """Return what sparse learning adds to the gradient of every weight.

    Fang et al., 2023 (https://arxiv.org/abs/2301.12900), its sparse learning, with a
    shrinkage of 2 ** (4 * gap).
    """
    added = {name: torch.zeros_like(p).double() for name, p in net.named_parameters()}
    for group, channels in GROUPS.items():
        norms = [math.sqrt(energy(net, group, channel)) for channel in range(channels)]
        high, low = max(norms), min(norms)
        for channel, norm in enumerate(norms):
            strength = reg * 2 ** (4 * (high - norm) / (high - low))
            if group == "conv1":
                places = [("conv1", 0), ("bn1", 0), ("conv2", 0), ("bn2", 0)]
                places += [("conv2", 1), ("conv3", 1)]
            else:
                places = [("conv3", 0), ("bn3", 0), ("head", 1)]
            for layer, dim in places:
                weight = getattr(net, layer).weight.detach().double()
                where = (slice(None),) * dim + (channel,)
                added[f"{layer}.weight"][where] += strength * weight[where]
    return added


def slim_importance(net: nn.Module, group: str) -> list[float]:
    """Return the mean of |gamma| over the normalisations of a group.

    Liu et al., 2017 (https://arxiv.org/abs/1708.06519), |gamma| of single layers; the mean over a
    group is that of Torch-Pruning.
    """
    norms = [net.bn1, net.bn2] if group == "conv1" else [net.bn3]
    return [
        sum(abs(float(bn.weight[channel].detach())) for bn in norms) / len(norms)
        for channel in range(GROUPS[group])
    ]


def vpns_start(net: nn.Module, group: str) -> list[float]:
    """Return the first scores of a group.

    HYDRA's scaled start (https://arxiv.org/abs/2002.10509) of a channel's norm; no paper gives one
    for channels.
    """
    norms = [math.sqrt(energy(net, group, channel)) for channel in range(GROUPS[group])]
    fan_in = {"conv1": 3 * 9, "conv3": 5 * 9}[group]
    return [math.sqrt(6 / fan_in) * norm / max(norms) for norm in norms]


def kept_of(scores: list[float], n_prune: int) -> list[bool]:
    """Return which channels are left when the ``n_prune`` lowest ``|scores|`` go."""
    order = sorted(range(len(scores)), key=lambda channel: (abs(scores[channel]), -channel))
    return [channel not in order[:n_prune] for channel in range(len(scores))]


def vpns_scores(
    net: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    n_prune: dict[str, int],
    rate: float,
) -> dict[str, list[float]]:
    """Learn channel scores by gradient descent and return them; weights stay, in training mode.

    Eq. 5 of VPNs (https://arxiv.org/abs/2312.01397), its masks and scores those of channels.

    Every normalisation's output is multiplied by its group's gate; the score of channel c gets
    ``sign(score) * sum(output * gradient)`` over batch and pixels, closed channels included.
    """
    scores = {group: vpns_start(net, group) for group in GROUPS}
    for images, labels in batches:
        gates = {
            g: torch.tensor(kept_of(s, n_prune[g]), dtype=torch.float32).view(-1, 1, 1)
            for g, s in scores.items()
        }
        outputs: list[tuple[str, Tensor, Tensor]] = []

        def gated(group: str, output: Tensor, gates: dict, outputs: list) -> Tensor:
            result = output * gates[group]
            result.retain_grad()
            outputs.append((group, output, result))
            return result

        first = gated("conv1", net.bn1(net.conv1(images)), gates, outputs).relu()
        second = gated("conv1", net.bn2(net.conv2(first)), gates, outputs)
        hidden = (second + first).relu()
        last = gated("conv3", net.bn3(net.conv3(hidden)), gates, outputs).relu()
        functional.cross_entropy(net.head(last.mean((2, 3))), labels).backward()
        for group, values in scores.items():
            for channel in range(len(values)):
                gradient = sum(
                    float((output[:, channel].detach() * result.grad[:, channel]).sum())
                    for name, output, result in outputs
                    if name == group
                )
                values[channel] -= rate * math.copysign(1, values[channel]) * gradient
    return scores
