"""BiP: pruning as bi-level optimisation (Zhang et al., 2022, https://arxiv.org/abs/2210.04092)."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import BuildOptimizer, StageLike, parameter_groups
from vpns_lightning.pruners.learned_scores import LearnedScores, scaled_init
from vpns_lightning.sparsity import Scope, masked_layers

Variant = Literal["full", "first_order", "code"]
BatchNorm = nn.modules.batchnorm._BatchNorm


class BiP(LearnedScores):
    """Scores and weights learned in turn, each on batches of its own shuffle.

    An iteration takes two steps. The lower one moves the weights under the present masks
    (``min_w l(m * w)``), the upper one the scores and the prompt. With ``g`` the gradient at the
    masked weight, the upper gradient is that of the scores through weights which answer to the mask

    ``sign(s) * (w * g - inverse_gamma * m * g ** 2)``

    where the second term is what the lower problem's solution changes with the mask, the Hessian
    of the loss dropped. The weights it ends with are tuned already; tuning may take 0 epochs.

    Args:
        variant: ``"full"``; ``"first_order"`` without the second term; ``"code"``, what the
            authors' released code computes, which trains with SGD throughout: scores start as the
            weights, stay equal to them, and so decay twice in each step; factors of batch
            normalisation move in both steps, biases of convolutions and linear layers in the lower
            one alone; the second term is the square of the moving parameter's own gradient.
        inverse_gamma: Weight of the second term, 1 / gamma.
        scores_first: Take the upper step first; where None, only ``"first_order"`` does.
        weight_lr: Learning rate of the lower step's SGD; the upper optimiser is the stage's.
        weight_momentum: Its momentum.
        weight_decay: Its weight decay.
        scope: See :class:`LearnedScores`.

    Raises:
        UserError: ``variant`` is unknown or a number is negative.
    """

    def __init__(
        self,
        *,
        variant: Variant = "full",
        inverse_gamma: float = 1e-4,
        scores_first: bool | None = None,
        weight_lr: float = 0.01,
        weight_momentum: float = 0.9,
        weight_decay: float = 1e-4,
        scope: Scope = "global",
    ) -> None:
        super().__init__(scope=scope)
        if variant not in ("full", "first_order", "code"):
            raise UserError(f"variant must be 'full', 'first_order' or 'code', got {variant!r}")
        numbers = {
            "inverse_gamma": inverse_gamma,
            "weight_lr": weight_lr,
            "weight_momentum": weight_momentum,
            "weight_decay": weight_decay,
        }
        for name, value in numbers.items():
            if value < 0:
                raise UserError(f"BiP: {name} must be >= 0, got {value}")
        if scores_first is None:
            scores_first = variant == "first_order"
        self.variant: Variant = variant
        self.inverse_gamma = inverse_gamma
        self.weight_lr = weight_lr
        self.weight_momentum = weight_momentum
        self.weight_decay = weight_decay
        self.shuffles = ("scores", "weights") if scores_first else ("weights", "scores")
        # a squared gradient needs its true size, and float16 unscales one optimiser's alone, or
        # none if that is fused
        self.scaled_gradients = variant == "first_order"
        self._upper = False

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Create scores and first masks; unlike other learned scores, leave weights trainable.

        Raises:
            UserError: See :meth:`LearnedScores.attach`.
        """
        super().attach(network, sparsity)
        network.backbone.requires_grad_(True)

    def initial_scores(self, weight: Tensor) -> Tensor:
        """Return :func:`scaled_init` of the weight; a copy of it for ``"code"``."""
        if self.variant == "code":
            return weight.detach().float().clone()
        return scaled_init(weight)

    def optimizers(self, network: PromptedClassifier, build: BuildOptimizer) -> list[Optimizer]:
        """Return the lower optimiser (SGD of the weights) and the upper one (scores, prompt)."""
        scores = [layer.scores for _, layer in masked_layers(network.backbone)]
        learned = {id(score) for score in scores}
        groups = {group["name"]: group for group in parameter_groups(network)}
        own = [p for p in groups.pop("backbone")["params"] if id(p) not in learned]
        lower: list[Any] = own
        upper = _groups(backbone=scores)
        if self.variant == "code":
            weights = {id(weight) for weight in network.prunable().values()}
            lower = _groups(
                shared=[p for p in own if id(p) in weights],
                backbone=[p for p in own if id(p) not in weights],
            )
            upper = _groups(shared=scores, backbone=_norms(network))
        optimizers = [
            SGD(
                lower,
                lr=self.weight_lr,
                momentum=self.weight_momentum,
                weight_decay=self.weight_decay,
                fused=True,
            ),
            build([*upper, *groups.values()]),
        ]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if group.get("name") == "shared" and "weight_decay" in group:
                # the release's optimisers hold the same values under two names
                group["weight_decay"] *= 2
        return optimizers

    def step(self, stage: StageLike, view: str, batch: Batch) -> None:
        """Take the lower or the upper step, as the batch's shuffle says; then refresh the masks."""
        lower, upper = stage.optimizers()
        self._upper = stage.shuffle == "scores"
        loss = stage.loss(view, batch)
        # backward fills the gradients of both, whichever steps: processes exchange the same in each
        for optimizer in (lower, upper):
            optimizer.zero_grad()
        stage.manual_backward(loss)
        (upper if self._upper else lower).step()
        if self.variant == "code":
            self._share(stage.network)
        if self._upper or self.variant == "code":
            self.refresh(stage.network)

    @torch.no_grad()
    def regularize(self, network: PromptedClassifier) -> None:
        """Before an upper step, subtract the implicit term from the gradients."""
        if not self._upper or self.variant == "first_order":
            return
        if self.variant == "code":
            for parameter in _norms(network):
                if parameter.grad is not None:
                    parameter.grad.sub_(parameter.grad.square(), alpha=self.inverse_gamma)
        for _, layer in masked_layers(network.backbone):
            assert isinstance(layer.scores, nn.Parameter)
            if layer.scores.grad is None or layer.weight.grad is None:
                continue
            if self.variant == "full":
                # the weight's gradient is already m * g, and m * g ** 2 is its square
                term = torch.sign(layer.scores) * layer.weight.grad.square()
            else:
                term = layer.scores.grad.square()
            layer.scores.grad.sub_(term, alpha=self.inverse_gamma)

    @torch.no_grad()
    def _share(self, network: PromptedClassifier) -> None:
        """Give weights and scores the values of whichever has just moved."""
        for _, layer in masked_layers(network.backbone):
            assert layer.scores is not None
            if self._upper:
                layer.weight.copy_(layer.scores)
            else:
                layer.scores.copy_(layer.weight)


def _groups(**parameters: list[Any]) -> list[dict[str, Any]]:
    """Return optimiser groups by name, without empty ones."""
    return [{"params": held, "name": name} for name, held in parameters.items() if held]


def _norms(network: PromptedClassifier) -> list[nn.Parameter]:
    """Return the factors of batch normalisation."""
    layers = [m for m in network.backbone.modules() if isinstance(m, BatchNorm)]
    return [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
