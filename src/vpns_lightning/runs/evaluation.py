"""The one definition of accuracy: every test image once, on one process."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.record import Accuracy


def autocast(precision: object, device: torch.device) -> Any:  # two unrelated context managers
    """Return the context in which Lightning runs a forward pass of this precision."""
    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = dtypes.get(str(precision))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@torch.no_grad()
def evaluate(
    network: PromptedClassifier,
    data: ImageData,
    *,
    precision: object = "32-true",
    quiet: bool = False,
) -> Accuracy:
    """Return the accuracy on the test images.

    Args:
        network: The network, on the device to use; left in the mode it was in.
        data: The data module; all its test images are used.
        precision: A Lightning precision, such as ``bf16-mixed``.
        quiet: Show no progress bar.
    """
    device = network.mean.device
    was_training = network.training
    network.eval()
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    images_seen = 0
    batches: Iterable[tuple[Tensor, Tensor, Tensor]] = data.whole_test_dataloader()
    for images, labels, _ in track(
        batches, "testing", disable=quiet or not Console().is_terminal, transient=True
    ):
        images_seen += len(labels)
        labels = labels.to(device)
        with autocast(precision, device):
            shown = data.eval_transform(images.to(device))
            own, plain = network.predicted(shown)
        correct += torch.stack([(own == labels).sum(), (plain == labels).sum()])
    network.train(was_training)
    prompted, unprompted = (count / images_seen for count in correct.tolist())
    return Accuracy(test_accuracy=prompted, test_accuracy_plain=unprompted, test_images=images_seen)
