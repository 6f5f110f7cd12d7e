"""Step time: mask finding and tuning over dense fine-tuning of the same network.

    python benchmarks/steps.py                      224 px and 64 px, batches of 16
    python benchmarks/steps.py --px 64 --compile

A dense step is ordinary fine-tuning of torchvision's ResNet-18: normalise, forward, cross-entropy,
backward, fused SGD; no mask, no prompt. Finding is one step of Hydra with a pad prompt (that is
VPNs) through the pruner's own code, tuning one step on baked masks with the prompt, both with the
stages' own optimisers; both once more without the prompt, which shows what the masks alone cost: a
prompt needs the first convolution's gradient at its input, which dense fine-tuning never computes.
Precision, memory format and compilation are the same for all. Before anything is timed, the masks
are checked for their exact count after real steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypedDict

import torch
import torchvision
from _harness import Figure, Timing, interleave, parser, ratio, report, settle, show
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Hydra
from vpns_lightning.pruners.base import Batch, gradient_step, parameter_groups
from vpns_lightning.sparsity import bake, get_masks, prune_count
from vpns_lightning.stages.compiling import Forward
from vpns_lightning.stages.mask_finding import default_find_optimizer
from vpns_lightning.stages.subnetwork_tuning import default_tune_optimizer

CLASSES = 100
SPARSITY = 0.9
GOALS = {"find": {224: 1.06, 64: 1.25}, "tune": {224: 1.01, 64: 1.05}}


class How(TypedDict):
    """What is the same for all steps."""

    precision: str
    compile: bool


class LightStage:
    """What a pruner asks of the stage that runs it, without a Trainer around it.

    Args:
        network: The network.
        precision: "fp32" or "bf16" (autocast).
        current_epoch: Always 0 here.
    """

    def __init__(
        self, network: PromptedClassifier, precision: str = "fp32", current_epoch: int = 0
    ) -> None:
        self.network = network
        self.precision = precision
        self.current_epoch = current_epoch
        self.optimizer: Optimizer | None = None
        self.forward_loss = Forward(functional.cross_entropy)

    def loss(self, view: str, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of one view's batch."""
        images, labels = batch
        with autocast(self.precision, images.device):
            return self.forward_loss(self.network, images, labels, prompted=view == "prompted")[0]

    def optimizers(self) -> Optimizer:
        """Return the only optimiser."""
        assert self.optimizer is not None
        return self.optimizer

    def manual_backward(self, loss: Tensor) -> None:
        """Backpropagate."""
        loss.backward()

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the tensor: there is one process."""
        return tensor


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a step of ``precision`` runs."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def new_network(
    px: int, *, prompted: bool = True, compile: bool = False, backbone: str = "resnet18"
) -> PromptedClassifier:
    """Return a network of random weights, its pad prompt as wide as the paper's, scaled."""
    torch.manual_seed(0)
    network = PromptedClassifier(
        backbone,
        CLASSES,
        prompt=PadPrompt(px, max(1, px * 16 // 224)) if prompted else None,
        mapping=IdentityMapping(),
        compile=compile,
    )
    network.fit_mapping()
    return network.train()


def new_batch(px: int, batch_size: int) -> Batch:
    """Return random images in [0, 1] and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, 3, px, px, generator=generator)
    return images, torch.randint(CLASSES, (batch_size,), generator=generator)


def finding_step(
    px: int,
    batch: Batch,
    *,
    prompted: bool = True,
    precision: str = "fp32",
    compile: bool = False,
    backbone: str = "resnet18",
) -> tuple[Callable[[], None], PromptedClassifier]:
    """Return one step of mask finding where the batch is, and its network."""
    network = new_network(px, prompted=prompted, compile=compile, backbone=backbone)
    pruner, stage = Hydra(), LightStage(network, precision)
    pruner.attach(network, SPARSITY)
    network.to(batch[0].device)
    pruner.to(batch[0].device)
    (stage.optimizer,) = pruner.optimizers(network, default_find_optimizer)
    return partial(pruner.step, stage, "prompted", batch), network


def tuning_step(
    px: int,
    batch: Batch,
    *,
    prompted: bool = True,
    precision: str = "fp32",
    compile: bool = False,
    backbone: str = "resnet18",
) -> tuple[Callable[[], None], PromptedClassifier]:
    """Return one step of tuning the subnetwork that the initial scores select, and its network."""
    network = new_network(px, prompted=prompted, compile=compile, backbone=backbone)
    pruner, stage = Hydra(), LightStage(network, precision)
    pruner.attach(network, SPARSITY)
    pruner.finish(network, SPARSITY)
    bake(network.backbone)
    network.to(batch[0].device)
    stage.optimizer = default_tune_optimizer(parameter_groups(network))
    return partial(gradient_step, stage, "prompted", batch), network


class Normalised(nn.Module):
    """A plain network of torchvision behind the usual normalisation."""

    def __init__(self, like: PromptedClassifier, backbone: str) -> None:
        super().__init__()
        self.backbone = torchvision.models.get_model(backbone, num_classes=CLASSES)
        self.backbone.to(memory_format=torch.channels_last)
        self.register_buffer("mean", like.mean.clone())
        self.register_buffer("std", like.std.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of images in [0, 1]."""
        images = (images - self.mean) / self.std
        return self.backbone(images.contiguous(memory_format=torch.channels_last))


def dense_step(
    px: int,
    batch: Batch,
    *,
    precision: str = "fp32",
    compile: bool = False,
    backbone: str = "resnet18",
) -> Callable[[], None]:
    """Return one step of ordinary fine-tuning."""
    network = Normalised(new_network(px, backbone=backbone), backbone).train()
    network.to(batch[0].device)
    loss_of = torch.compile(_loss, dynamic=False) if compile else _loss
    optimizer = default_tune_optimizer(network.parameters())
    images, labels = batch

    def step() -> None:
        with autocast(precision, images.device):
            loss = loss_of(network, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(network(images), labels)


def check(
    find: Callable[[], None], tune: Callable[[], None], networks: Sequence[nn.Module]
) -> None:
    """Take real steps, then count: speed counts only if the sparsity is exact."""
    finding, tuning = networks
    for _ in range(2):
        find()
        tune()
    masks = get_masks(finding).values()
    total = sum(mask.numel() for mask in masks)
    assert total - sum(int(m.sum()) for m in masks) == prune_count(total, SPARSITY)
    for name, mask in get_masks(tuning).items():
        weight = tuning.get_submodule(name).weight
        assert not bool(weight[~mask].any()), f"{name}: a pruned weight moved"
    print(f"masks hold exactly {prune_count(total, SPARSITY)} of {total} weights back", flush=True)


def measure(px: int, batch_size: int, precision: str, compile: bool, rounds: int) -> list[Figure]:
    """Time the three steps at one image size."""
    batch = new_batch(px, batch_size)
    print(f"ResNet-18, {px} px, batch {batch_size}, {precision}, compile {compile}", flush=True)
    how: How = {"precision": precision, "compile": compile}
    find, finding = finding_step(px, batch, **how)
    tune, tuning = tuning_step(px, batch, **how)
    check(find, tune, [finding.backbone, tuning.backbone])
    steps = {
        "dense": dense_step(px, batch, **how),
        "find": find,
        "tune": tune,
        "find, no prompt": finding_step(px, batch, prompted=False, **how)[0],
        "tune, no prompt": tuning_step(px, batch, prompted=False, **how)[0],
    }
    timings = interleave(steps, rounds, warmup=2)
    show(timings)
    mode = "compiled" if compile else "eager"
    dense = timings.pop("dense")
    return [
        _figure(step, px, timing, dense, f"{precision}, {mode}") for step, timing in timings.items()
    ]


def _figure(step: str, px: int, ours: Timing, dense: Timing, how: str) -> Figure:
    goals = GOALS[step.partition(",")[0]]
    return ratio(f"{step}, over dense, {px} px, {how}", goals.get(px, goals[64]), ours, dense)


def fast_precision() -> str:
    """Return "bf16" where the processor multiplies it natively, "fp32" where it would be slower."""
    native = torch.cpu.get_capabilities()
    return "bf16" if native.get("avx512_bf16") or native.get("amx_bf16") else "fp32"


def main() -> None:
    """Time the steps and print the ratios."""
    settle()
    options = parser(__doc__, rounds=15)
    options.add_argument("--px", type=int, nargs="+", default=[224, 64], help="image sizes")
    options.add_argument("--batch-size", type=int, default=16)
    options.add_argument("--precision", choices=["fp32", "bf16", "auto"], default="auto")
    options.add_argument("--compile", action="store_true", help="compile all three networks")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    precision = fast_precision() if args.precision == "auto" else args.precision
    figures = []
    for px in args.px:
        rounds = 1 if args.quick else args.rounds
        figures += measure(px, args.batch_size, precision, args.compile, rounds)
    report(figures, args.json)


if __name__ == "__main__":
    main()
