"""OMP: one-shot magnitude pruning (Han et al., 2015, https://arxiv.org/abs/1506.02626)."""

from torch import Tensor

from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.saliency import Saliency


class OMP(Saliency):
    """Keep the weights of largest magnitude; see :class:`Saliency` for the options.

    Without a warm-up stage these are the pretrained weights, with one those of the dense network
    trained on the target data.
    """

    def scores(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return ``|weight|``."""
        return {name: weight.detach().abs() for name, weight in network.prunable().items()}
