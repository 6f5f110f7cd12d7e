"""One-shot scores and layouts, restated slowly: whole Hessians, unfolded inputs, bisection.

Each function says of which published formula it is.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

Weights = Mapping[str, Tensor]
Batches = Sequence[tuple[Tensor, Tensor]]


def balanced(batches: Batches, per_class: int) -> list[tuple[Tensor, Tensor]]:
    """Return the first images of each class, one by one, in the order they come."""
    taken: dict[int, int] = {}
    chosen = []
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            if taken.get(int(label), 0) < per_class:
                taken[int(label)] = taken.get(int(label), 0) + 1
                chosen.append((image[None], label[None]))
    return chosen


def summed_loss(
    network: nn.Module, examples: Batches, temperature: float = 1.0
) -> Callable[[Weights], Tensor]:
    """Return the loss summed over single images as a function of some weights."""

    def loss(weights: Weights) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for image, label in examples:
            logits = functional_call(network, dict(weights), (image.double(),))
            total = total - (logits / temperature).log_softmax(1)[0, label[0]]
        return total

    return loss


def training_loss(
    network: nn.Module, chunks: Batches, temperature: float = 1.0
) -> Callable[[Weights], Tensor]:
    """Return the loss summed over chunks that normalise by their own statistics.

    As the code of GraSP's authors runs its copy of the network, which they leave in training mode.
    """

    def loss(weights: Weights) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for images, labels in chunks:
            logits = functional_call(network, dict(weights), (images.double(),)) / temperature
            total = total + functional.cross_entropy(logits, labels, reduction="sum")
        return total

    return loss


def in_chunks(examples: Batches, parts: int) -> list[tuple[Tensor, Tensor]]:
    """Return single images joined to so many chunks of almost equal sizes, in their order."""
    chunks = []
    for part in torch.arange(len(examples)).tensor_split(parts):
        images, labels = zip(*[examples[i] for i in part.tolist()], strict=True)
        chunks.append((torch.cat(images), torch.cat(labels)))
    return chunks


def snip(loss: Callable[[Weights], Tensor], weights: Weights) -> dict[str, Tensor]:
    """Return |d loss / d mask| at masks of ones, with the masks as variables.

    Lee et al., 2019 (https://arxiv.org/abs/1810.02340): connection sensitivity, without its
    division by the sum, which changes no order.
    """
    masks = {n: torch.ones_like(w, requires_grad=True) for n, w in weights.items()}
    total = loss({n: w.detach() * masks[n] for n, w in weights.items()})
    grads = torch.autograd.grad(total, list(masks.values()))
    return {n: g.abs() for n, g in zip(masks, grads, strict=True)}


def grasp(loss: Callable[[Weights], Tensor], weights: Weights) -> dict[str, Tensor]:
    """Return weight * Hg with the whole Hessian written out.

    Wang et al., 2020 (https://arxiv.org/abs/2002.07376), of the opposite sign: it removes what has
    the highest ``-weight * Hg``.
    """
    sizes = [w.numel() for w in weights.values()]

    def of_vector(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        return loss({n: p.view(w.shape) for (n, w), p in zip(weights.items(), parts, strict=True)})

    vector = torch.cat([w.detach().reshape(-1) for w in weights.values()])
    gradient = torch.autograd.functional.jacobian(of_vector, vector)
    hessian = torch.autograd.functional.hessian(of_vector, vector)
    parts = (vector * (hessian @ gradient)).split(sizes)
    return {n: p.view(w.shape) for (n, w), p in zip(weights.items(), parts, strict=True)}


def grasp_by_differences(loss: Callable[[Weights], Tensor], weights: Weights) -> dict[str, Tensor]:
    """Return weight * Hg, with Hg the change of the gradient along itself: no second derivative.

    The definition of the product in https://arxiv.org/abs/2002.07376.

    In float64 a step so short that no ReLU changes its side.
    """
    start = {n: w.detach().clone() for n, w in weights.items()}

    def gradient(at: Weights) -> dict[str, Tensor]:
        leaves = {n: w.detach().clone().requires_grad_(True) for n, w in at.items()}
        return dict(zip(leaves, torch.autograd.grad(loss(leaves), leaves.values()), strict=True))

    along = gradient(start)
    step = 1e-7 / float(torch.cat([g.reshape(-1) for g in along.values()]).norm())
    ahead = gradient({n: w + step * along[n] for n, w in start.items()})
    behind = gradient({n: w - step * along[n] for n, w in start.items()})
    return {n: w * (ahead[n] - behind[n]) / (2 * step) for n, w in start.items()}


def grasp_masks(keep_scores: Mapping[str, Tensor], n_remove: int) -> dict[str, Tensor]:
    """Return masks by the rule of the authors' code: the largest ``-weight * Hg`` go.

    https://github.com/alecwangcq/GraSP
    """
    removal = torch.cat([-score.reshape(-1) for score in keep_scores.values()])
    gone = torch.zeros_like(removal, dtype=torch.bool)
    gone[removal.argsort(descending=True, stable=True)[:n_remove]] = True
    parts = (~gone).split([score.numel() for score in keep_scores.values()])
    return {n: m.view(s.shape) for (n, s), m in zip(keep_scores.items(), parts, strict=True)}


def wanda_squares(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return sums of squared inputs of each weight of a layer, from unfolded patches.

    Their root is the norm in the score of Sun et al., 2024 (https://arxiv.org/abs/2306.11695),
    which is of linear layers; a convolution is the linear layer of its unfolded patches.
    """
    if isinstance(layer, nn.Linear):
        return (inputs**2).sum(0).expand(layer.weight.shape)
    patches = functional.unfold(
        inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride
    )
    of_channel = (patches**2).sum((0, 2)).view(layer.groups, -1)
    rows = [of_channel[o * layer.groups // layer.out_channels] for o in range(layer.out_channels)]
    return torch.stack(rows).view(layer.weight.shape)


def best_in_row(scores: Sequence[float], keep: int) -> list[bool]:
    """Return which entries of one row are among its ``keep`` highest, ties by index."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i in order[:keep] for i in range(len(scores))]


def inputs_of(net: nn.Module, names: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Return what some layers of a network are given when it is shown images."""
    inputs: dict[str, Tensor] = {}
    handles = [
        net.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: inputs.update({name: args[0]})
        )
        for name in names
    ]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return inputs


def wanda_sequential(
    net: nn.Module, images: Tensor, blocks: Sequence[Sequence[str]], keep: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """Return masks found block by block: what a block receives comes from blocks already pruned.

    As the code of Sun et al., 2024, for language models (https://github.com/locuslab/wanda). Theirs
    for image classifiers passes on what the block gave before it was pruned.

    Args:
        net: In evaluation mode; its weights are zeroed as masks are found.
        images: What it is shown.
        blocks: Names of the layers of each block, in order.
        keep: Layer name to the weights kept of each row.
    """
    masks = {}
    for names in blocks:
        inputs = inputs_of(net, names, images)
        for name in names:
            layer = net.get_submodule(name)
            weight = layer.weight.detach()
            scores = (weight.abs() * wanda_squares(layer, inputs[name]).sqrt()).flatten(1)
            rows = [best_in_row(r, k) for r, k in zip(scores.tolist(), keep[name], strict=True)]
            masks[name] = torch.tensor(rows).view(weight.shape)
        with torch.no_grad():
            for name in names:
                net.get_submodule(name).weight.mul_(masks[name])
    return masks


def synflow(matrices: Sequence[Tensor], keep_after_round: Sequence[int]) -> list[Tensor]:
    """Return masks of a bias-free linear network after rounds that keep so many weights each.

    Tanaka et al., 2020 (https://arxiv.org/abs/2006.05467): the product of magnitudes along all
    paths through a weight, which is what its algorithm 1 differentiates.
    """
    masks = [torch.ones_like(matrix) for matrix in matrices]
    for keep in keep_after_round:
        magnitudes = [(m * mask).abs() for m, mask in zip(matrices, masks, strict=True)]
        scores = []
        for index, magnitude in enumerate(magnitudes):
            before = torch.ones(magnitudes[0].shape[1], dtype=magnitude.dtype)
            for earlier in magnitudes[:index]:
                before = earlier @ before
            after = torch.ones(magnitudes[-1].shape[0], dtype=magnitude.dtype)
            for later in reversed(magnitudes[index + 1 :]):
                after = later.T @ after
            scores.append(torch.outer(after, before) * magnitude)
        entries = [
            (-float(score[at]), layer, at)
            for layer, score in enumerate(scores)
            for at in torch.cartesian_prod(*[torch.arange(n) for n in score.shape]).unbind()
            for at in [tuple(at.tolist())]
            if masks[layer][at]
        ]
        kept = {(layer, at) for _, layer, at in sorted(entries)[:keep]}
        for _, layer, at in entries:
            masks[layer][at] = float((layer, at) in kept)
    return masks


def erk(shapes: Sequence[Sequence[int]], fraction: float) -> list[float]:
    """Return Erdős-Rényi-kernel fractions, the common factor found by bisection.

    Evci et al., 2020 (https://arxiv.org/abs/1911.11134), section 3.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes]
    raw = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(min(1.0, middle * r) * n for r, n in zip(raw, sizes, strict=True))
        low, high = (middle, high) if kept < fraction * sum(sizes) else (low, middle)
    return [min(1.0, high * r) for r in raw]
