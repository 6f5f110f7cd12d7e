"""HYDRA (Sehwag et al., 2020, https://arxiv.org/abs/2002.10509); with a prompt it is VPNs."""

from torch import Tensor

from vpns_lightning.pruners.learned_scores import LearnedScores, scaled_init


class Hydra(LearnedScores):
    """Learned scores with scaled initialisation; see :class:`LearnedScores` for the options.

    With a visual prompt on the network this is VPNs (https://arxiv.org/abs/2312.01397, Eq. 5),
    without one it is HYDRA with global ranking (Eq. 4).
    """

    def initial_scores(self, weight: Tensor) -> Tensor:
        """Return :func:`scaled_init` of the weight."""
        return scaled_init(weight)

    def method(self, *, prompted: bool) -> str:
        """Return "VPNs" with a prompt, "HYDRA" without."""
        return "VPNs" if prompted else "HYDRA"
