"""A finished network under a Trainer, on as many devices as there are: each image counts once."""

from collections.abc import Sequence
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier


class Counts(NamedTuple):
    """Images, and how many of them were classified correctly.

    Attributes:
        images: Seen.
        correct: With the prompt.
        correct_plain: Without it; the same for a network that has none.
    """

    images: int
    correct: int
    correct_plain: int


class Tally(Metric):
    """Counts of images and correct answers: whole numbers, added over all processes."""

    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, own: Tensor, plain: Tensor, labels: Tensor) -> None:
        """Add a batch of predicted classes, with the prompt and without, of shape (N,)."""
        correct = torch.stack([(own == labels).sum(), (plain == labels).sum()])
        self.counts[0] += len(labels)
        self.counts[1:] += correct

    def compute(self) -> Tensor:
        """Return int64 [images, correct, correct without prompt]."""
        return self.counts


class Prediction(NamedTuple):
    """The most probable classes of a batch of images.

    Attributes:
        positions: int64 of shape (N,): which images these are.
        classes: int64 of shape (N, k), by falling probability.
        probabilities: float32 of shape (N, k).
    """

    positions: Tensor
    classes: Tensor
    probabilities: Tensor


class Evaluation(pl.LightningModule):
    """A network that is measured with ``Trainer.test`` or ``validate``, or asked with ``predict``.

    Args:
        network: The network; images of any size it was trained on, in [0, 1].
        class_names: Of the network, which the images' must be; None takes any.
        numbered: Whether the network may know its classes by number only.
        top: How many classes a prediction names.

    Attributes:
        counts: What the last pass over labelled images came to, on every process.
        predictions: Of all images of the last ``predict``, on every process.
    """

    def __init__(
        self,
        network: PromptedClassifier,
        *,
        class_names: Sequence[str] | None = None,
        numbered: bool = False,
        top: int = 5,
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names = class_names
        self.numbered = numbered
        self.top = top
        self.tally = Tally()
        self.counts = Counts(0, 0, 0)
        self.predictions: list[Prediction] = []
        self._own: list[Prediction] = []

    def setup(self, stage: str) -> None:
        """Refuse images of other classes: their numbers would mean something else to the network.

        Raises:
            UserError: The data set's classes are not those of the network.
        """
        data = getattr(self.trainer, "datamodule", None)
        if self.class_names is not None and isinstance(data, ImageData):
            _check_classes(self.class_names, data, numbered=self.numbered)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the correct predictions of a batch."""
        images, labels = batch
        own, plain = self.network.predicted(images)
        self.tally.update(own, plain, labels)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the correct predictions of a batch."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Add up what all processes counted."""
        self.counts = Counts(*self.tally.compute().tolist())
        self.tally.reset()

    def on_test_epoch_end(self) -> None:
        """Add up what all processes counted."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Prediction:
        """Return the most probable classes of a batch, and keep them for ``predictions``."""
        images, positions = batch
        best = self.network(images).float().softmax(1).topk(self.top)
        kept = (positions, best.indices, best.values)
        prediction = Prediction(*(tensor.cpu() for tensor in kept))
        self._own.append(prediction)
        return prediction

    def on_predict_epoch_end(self) -> None:
        """Collect the predictions of all processes."""
        parts: list[list[Prediction] | None] = [self._own]
        if self.trainer.world_size > 1:
            parts = [None] * self.trainer.world_size
            distributed.all_gather_object(parts, self._own)
        self.predictions = [prediction for part in parts for prediction in part or ()]
        self._own = []


def _check_classes(class_names: Sequence[str], data: ImageData, *, numbered: bool) -> None:
    own, found = (list(map(str, names)) for names in (class_names, data.class_names))
    numbers = [str(number) for number in range(len(found))]
    if own == found or (numbered and own == numbers):
        return
    odd = sorted(set(own) ^ set(found))
    how = f"they differ in {', '.join(odd[:5])}" if odd else "they are in another order"
    raise UserError(
        f"the network knows {len(own)} classes, the images in {data.root.absolute()} are of "
        f"{len(found)}: {how}; give --data.root a folder of the same ones"
    )
