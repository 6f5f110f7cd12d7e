"""What travels from the data to a stage and its pruner."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

# images (N, 3, h, w), float32 in [0, 1], and int64 labels (N,)
Batch: TypeAlias = "tuple[Tensor, Tensor]"


class Stream(str):
    """One order of the training images, shuffled by itself; the key of its part of a batch.

    A string, so that ``batch["prompted"]`` is the batch of the prompted view.

    Args:
        view: How the images are shown: "prompted" or "plain".
        shuffle: Tells several orders of one view apart; empty where there is one.
    """

    view: str
    shuffle: str

    def __new__(cls, view: str, shuffle: str = "") -> "Stream":
        """Return ``view``, or ``view:shuffle``."""
        stream = super().__new__(cls, f"{view}:{shuffle}" if shuffle else view)
        stream.view, stream.shuffle = view, shuffle
        return stream

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # str takes one
        return self.view, self.shuffle
