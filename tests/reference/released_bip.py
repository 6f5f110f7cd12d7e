"""BiP as its authors' release (https://github.com/OPTML-Group/BiP) computes it, restated.

Scores and weights are two parameters on one storage. Both optimisers are SGD and hold every
parameter; what a step freezes keeps a gradient of zeros, as in the torch releases of that time, so
it still decays: shared values therefore decay twice in each step. In the mask step biases of
convolutions and linear layers are frozen, factors of batch normalisation are not, and minus the
square of its own gradient is added to every gradient.
"""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from reference.selection import keep_by_sorting
from reference.vpns_equations import MEAN, STD, prunable_names

Batch = tuple[Tensor, Tensor]


class ReleasedBiP:
    """A network whose scores are its weights.

    Args:
        net: The pretrained network; copied.
        rows: Source class of each target class; the head keeps these rows only.
        n_prune: Weights removed.
        rate: Learning rate of both optimisers.
        decay: Weight decay of both.
        inverse_gamma: Weight of the squared gradients.
    """

    def __init__(
        self,
        net: nn.Module,
        rows: Sequence[int],
        *,
        n_prune: int,
        rate: float,
        decay: float,
        inverse_gamma: float,
    ) -> None:
        self.net = copy.deepcopy(net).train()
        with torch.no_grad():
            self.net.head.weight = nn.Parameter(self.net.head.weight[list(rows)])
            self.net.head.bias = nn.Parameter(self.net.head.bias[list(rows)])
        self.n_prune, self.inverse_gamma = n_prune, inverse_gamma
        self.names = prunable_names(self.net)
        self.scores = {name: nn.Parameter(self.weight(name).data) for name in self.names}
        self.parameters: list[nn.Parameter] = []
        for name, module in self.net.named_modules():
            self.parameters += module.parameters(recurse=False)
            self.parameters += [self.scores[name]] if name in self.scores else []
        # one parameter after the other, as shared storage needs it
        options = {"lr": rate, "momentum": 0.9, "weight_decay": decay, "foreach": False}
        self.lower = torch.optim.SGD(self.parameters, **options)
        self.upper = torch.optim.SGD(self.parameters, **options)

    def weight(self, name: str) -> nn.Parameter:
        """Return the weight of a layer."""
        return self.net.get_parameter(f"{name}.weight")

    def masks(self) -> dict[str, Tensor]:
        """Return the bool mask of every layer."""
        magnitudes = [self.scores[name].detach().abs() for name in self.names]
        kept = keep_by_sorting(magnitudes, self.n_prune)
        return dict(zip(self.names, kept, strict=True))

    def _backward(self, batch: Batch, moving: Iterable[nn.Parameter]) -> None:
        """Fill the gradients of some parameters, and zero those of all that had one."""
        mask, dense = self.masks(), {}
        for name in self.names:
            masked = mask[name] * self.weight(name).detach()
            dense[f"{name}.weight"] = masked.requires_grad_(True)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()
        shown = (batch[0] - MEAN) / STD
        loss = functional.cross_entropy(functional_call(self.net, dense, (shown,)), batch[1])
        own = [p for p in self.net.parameters() if all(p is not self.weight(n) for n in self.names)]
        found = torch.autograd.grad(loss, [*dense.values(), *own])
        gradients: dict[nn.Parameter, Tensor] = dict(zip(own, found[len(dense) :], strict=True))
        for name, at_masked in zip(self.names, found, strict=False):
            gradients[self.weight(name)] = mask[name] * at_masked
            score = self.scores[name].detach()
            gradients[self.scores[name]] = score.sign() * score * at_masked
        for parameter in moving:
            parameter.grad = gradients[parameter]

    def weights_step(self, batch: Batch) -> None:
        """Move weights, biases and factors; scores are frozen."""
        scores = list(self.scores.values())
        self._backward(batch, [p for p in self.parameters if all(p is not s for s in scores)])
        self.lower.step()

    def mask_step(self, batch: Batch) -> None:
        """Move scores and batch normalisation's factors; weights and other biases are frozen."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norms = [m for m in self.net.modules() if isinstance(m, nn.BatchNorm2d)]
        factors = [p for norm in norms for p in norm.parameters()]
        self._backward(batch, [*self.scores.values(), *factors])
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter.grad -= self.inverse_gamma * parameter.grad**2
        self.upper.step()
