"""HYDRA (Sehwag et al., 2020, https://arxiv.org/abs/2002.10509); with a prompt it is VPNs."""

import math
from typing import Literal

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.learned_scores import LearnedScores, scaled_init
from vpns_lightning.sparsity import Scope, TieRule

ScoreInit = Literal["scaled", "kaiming"]


class Hydra(LearnedScores):
    """Learned scores, started from the weights; see :class:`LearnedScores`.

    With a visual prompt on the network this is VPNs (https://arxiv.org/abs/2312.01397, Eq. 5),
    without one it is HYDRA with global ranking (Eq. 4).

    Args:
        score_init: ``"scaled"``: each layer's weights, scaled (:func:`scaled_init`).
            ``"kaiming"``: drawn uniformly from the same range whatever the weights are, the
            ablation of the initialisation; the run's seed decides the draws.
        scope: Rank over all layers or within each, as the original HYDRA does.
        tie_rule: See :class:`LearnedScores`.

    Raises:
        UserError: ``score_init`` is unknown.
    """

    def __init__(
        self,
        *,
        score_init: ScoreInit = "scaled",
        scope: Scope = "global",
        tie_rule: TieRule = "exact",
    ) -> None:
        super().__init__(scope=scope, tie_rule=tie_rule)
        if score_init not in ("scaled", "kaiming"):
            raise UserError(f"score_init must be 'scaled' or 'kaiming', got {score_init!r}")
        self.score_init: ScoreInit = score_init
        self._draws = torch.Generator()

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Create the scores; see :meth:`LearnedScores.attach`."""
        self._draws.manual_seed(self.run_seed)
        super().attach(network, sparsity)

    def initial_scores(self, weight: Tensor) -> Tensor:
        """Return :func:`scaled_init` of the weight, or noise in the range that it has."""
        if self.score_init == "scaled":
            return scaled_init(weight)
        bound = math.sqrt(6 / weight[0].numel())
        # drawn on the CPU: the same scores on every device
        noise = torch.empty(weight.shape).uniform_(-bound, bound, generator=self._draws)
        return torch.empty_like(weight, dtype=torch.float32).copy_(noise)

    def method(self, *, prompted: bool) -> str:
        """Return "VPNs" with a prompt, "HYDRA" without."""
        return "VPNs" if prompted else "HYDRA"
