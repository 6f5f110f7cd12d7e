"""One module for training, evaluation and export: prompt, normalisation, backbone, mapping."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.network.backbones import (
    build_backbone,
    head_of,
    num_outputs,
    take_weights,
)
from vpns_lightning.network.cuts import Cuts, stored_cuts
from vpns_lightning.network.mappings import FrequencyMapping, LabelMapping, LinearHead
from vpns_lightning.network.prompt import Prompt, pad_to_canvas
from vpns_lightning.network.reach import dense_weights, leave_bypassed_layers_dense, own_side
from vpns_lightning.network.specification import Backbone, specify
from vpns_lightning.sparsity import mask_layers, masked_layers, replace_module

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEFAULT_SIDE = 224  # px


class PromptedClassifier(nn.Module):
    """Images in [0, 1] to logits of the target classes, through a prompt and a masked backbone.

    Args:
        backbone: A classifier of torchvision (``resnet18``) or timm (``timm/resnet18``), a class or
            function of a plug-in (``nets.ResNet20``); with arguments ``{class_path: name,
            init_args: {...}}``. In Python also a module that maps (N, 3, S, S) to logits.
        num_classes: Target classes C.
        weights: Name of pretrained weights, a file or a run folder of any usual wrapping, or None.
        source_classes: Classes of the head where ``weights`` is None; num_classes where None.
        prompt: The visual prompt, or None for a network without one.
        mapping: From source to target classes; FrequencyMapping where None.
        exclude: Regular expressions; layers whose names match are never pruned.
        pad_plain: Show plain (unprompted) images on the prompt's canvas too, zero-padded; False
            shows them at their own size, as the released code does.
        drop_conv_bias: Remove the biases of convolutions, as the released code does to VGG.
        channels_last: Keep weights and activations in channels-last memory format.
        compile: Compile training steps with ``torch.compile``, from the prompt to the loss (see
            ``stages.compiling``); evaluation runs uncompiled.
        mean: Channel means subtracted after the prompt.
        std: Channel standard deviations divided by after the prompt.

    Raises:
        UserError: Backbone, weights, or mapping do not fit (see there).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        weights: str | None = None,
        source_classes: int | None = None,
        prompt: Prompt | None = None,
        mapping: LabelMapping | None = None,
        exclude: Sequence[str] = (),
        pad_plain: bool = True,
        drop_conv_bias: bool = False,
        channels_last: bool = True,
        compile: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"num_classes must be at least 1, got {num_classes}")
        spec = None if isinstance(backbone, nn.Module) else specify(backbone)
        self.specification = spec
        self.backbone_name = type(backbone).__name__ if spec is None else str(spec)
        self.weights_name = weights
        self.num_classes = num_classes
        self.exclude = tuple(exclude)
        self.drop_conv_bias = drop_conv_bias
        self.pad_plain = pad_plain
        self.channels_last = channels_last
        self.compiled = compile
        self.prompt = prompt
        mapping = mapping or FrequencyMapping()
        keeps_head = not isinstance(mapping, LinearHead)
        if not isinstance(backbone, nn.Module):
            assert spec is not None
            classes = source_classes or num_classes
            backbone = build_backbone(spec, weights, classes, keeps_head=keeps_head)
        elif weights is not None:
            take_weights(backbone, weights, keeps_head=keeps_head)
        if drop_conv_bias:
            _drop_conv_biases(backbone)
        self.backbone = backbone
        self.cuts = Cuts()
        self.mapping = mapping
        _, head = head_of(backbone)
        self.source_classes = num_outputs(head)
        self.mapping.prepare(self.source_classes, num_classes)
        if not keeps_head:
            self._replace_head(num_classes)
        for name, values in {"mean": mean, "std": std}.items():
            held = torch.tensor([float(value) for value in values])
            self.register_buffer(name, held.view(3, 1, 1))
        mask_layers(self.backbone, exclude=exclude)
        leave_bypassed_layers_dense(self.backbone, self.input_side())
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, *, prompted: bool = True) -> Tensor:
        """Return logits (N, C) of images (N, 3, i, i) in [0, 1].

        Args:
            images: The batch.
            prompted: Add the prompt; without one, or with False, images are only padded.
        """
        return self.answers(self.shown(images, prompted=prompted))

    def shown(self, images: Tensor, *, prompted: bool = True) -> Tensor:
        """Return what is seen of images (N, 3, i, i): with the prompt or padded, (N, 3, S, S)."""
        if self.prompt is not None and prompted:
            images = self.prompt(images)
        elif self.prompt is not None and self.pad_plain:
            images = pad_to_canvas(images, self.prompt.canvas_size)
        return images

    def answers(self, shown: Tensor) -> Tensor:
        """Return logits (N, C) of what :meth:`shown` returns."""
        return self.mapping(self._backbone_logits(shown))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def source_logits(self, images: Tensor, *, prompted: bool = True) -> Tensor:
        """Return the logits of the backbone's own head, before the mapping."""
        return self._backbone_logits(self.shown(images, prompted=prompted))

    def _backbone_logits(self, shown: Tensor) -> Tensor:
        images = (shown - self.mean) / self.std
        last, first = torch.channels_last, torch.contiguous_format
        images = images.contiguous(memory_format=last if self.channels_last else first)
        logits: Tensor = self.backbone(images)
        return logits

    def predicted(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the classes (N,) of images (N, 3, i, i), with the prompt and without.

        Without a prompt in the network both are one answer.
        """
        plain = self(images, prompted=False).argmax(1)
        return (self(images).argmax(1) if self.has_prompt else plain), plain

    @property
    def has_prompt(self) -> bool:
        """Whether the network has a visual prompt."""
        return self.prompt is not None

    def input_side(self) -> int:
        """Return the side of what the backbone is shown, px.

        The prompt's canvas; without a prompt the size a transformer is built for, or else 224.
        """
        if self.prompt is not None:
            return self.prompt.canvas_size
        return own_side(self.backbone) or DEFAULT_SIDE

    def dense_weights(self) -> dict[str, int]:
        """Return name and size of the backbone's weights that no mask reaches; no biases."""
        return dense_weights(self.backbone)

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return layer name to weight of every layer that carries a mask."""
        return {
            name: layer.weight
            for name, layer in masked_layers(self.backbone)
            if isinstance(layer.weight, nn.Parameter)
        }

    @torch.no_grad()
    def count_predictions(
        self, batches: Iterable[tuple[Tensor, Tensor]], *, prompted: bool = False
    ) -> Tensor:
        """Count which source class is predicted for images of which target class.

        Only the counts are kept, on the device: (source classes, target classes), int32.

        Args:
            batches: Pairs of images (N, 3, i, i) in [0, 1] and labels (N,), on the device.
            prompted: Show the images with the prompt.

        Raises:
            UserError: A label lies outside 0..C-1.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        cells = self.source_classes * self.num_classes
        counts = torch.zeros(cells, dtype=torch.int32, device=self.mean.device)
        extremes = torch.zeros(2, dtype=torch.int64, device=self.mean.device)
        for images, labels in batches:
            predicted = self.source_logits(images, prompted=prompted).argmax(1)
            extremes = torch.stack(
                [torch.minimum(extremes[0], labels.min()), torch.maximum(extremes[1], labels.max())]
            )
            cell = predicted * self.num_classes + labels.clamp(0, self.num_classes - 1)
            counts.scatter_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
        for module, training in modes:
            # not all alike: while the prompt alone learns, the backbone stays in evaluation mode
            module.training = training
        for label in extremes.tolist():
            if not 0 <= label < self.num_classes:
                raise UserError(
                    f"the data have label {label}, but the network has {self.num_classes} "
                    f"classes (0 to {self.num_classes - 1})"
                )
        return counts.view(self.source_classes, self.num_classes)

    def fit_mapping(self, counts: Tensor | None = None) -> None:
        """Fit the label mapping and, where it says so, keep only the mapped rows of the head.

        Args:
            counts: From :meth:`count_predictions` where ``mapping.needs_counts``.

        Raises:
            UserError: The head was sliced before, so other rows cannot be chosen any more.
        """
        if self.mapping.sliced:
            raise UserError(
                "the label mapping is fitted and the head holds its rows only: build the network "
                "anew to fit it again, or use slice_head=False"
            )
        self.mapping.fit(counts, self.source_classes)
        if self.mapping.slice_head:
            self.slice_head()

    @torch.no_grad()
    def slice_head(self) -> None:
        """Keep the rows of the classifier that the mapping needs, in target order; once."""
        if self.mapping.sliced:
            return
        name, head = head_of(self.backbone)
        rows = self.mapping.sequence.to(head.weight.device)
        if num_outputs(head) != self.num_classes or not torch.equal(
            rows, torch.arange(self.num_classes, device=rows.device)
        ):
            small = deepcopy(head)
            for key in ("weight", "bias", "scores"):
                whole = getattr(head, key, None)
                if whole is not None:
                    part = nn.Parameter(whole[rows].clone(), requires_grad=whole.requires_grad)
                    setattr(small, key, part)
            if hasattr(small, "mask"):
                small.mask = head.mask[rows].clone()  # type: ignore[index]  # a buffer of MaskedLayer
            attribute = "out_features" if isinstance(small, nn.Linear) else "out_channels"
            setattr(small, attribute, self.num_classes)
            replace_module(self.backbone, name, small)
        self.mapping.sliced = True

    def _replace_head(self, num_classes: int) -> None:
        name, head = head_of(self.backbone)
        fresh: nn.Module
        if isinstance(head, nn.Linear):
            fresh = nn.Linear(head.in_features, num_classes)
        else:
            fresh = nn.Conv2d(head.in_channels, num_classes, head.kernel_size)  # type: ignore[arg-type]  # torch types it as a tuple of any length
        replace_module(self.backbone, name, fresh)
        self.source_classes = num_classes

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Take the shapes of a sliced head and of cuts before the children load, strictly."""
        name, head = head_of(self.backbone)
        stored = state_dict.get(f"{prefix}backbone.{name}.weight")
        fitted = bool(state_dict.get(f"{prefix}mapping.fitted", False))
        if stored is not None and fitted and self.mapping.slice_head:
            if stored.shape[0] == self.num_classes != num_outputs(head):
                self.slice_head()
            self.mapping.sliced = stored.shape[0] == self.num_classes
        cuts = stored_cuts(state_dict, f"{prefix}cuts.")
        if cuts:
            self.cuts.take(cuts, self.backbone)
            if self.channels_last:
                self.backbone.to(memory_format=torch.channels_last)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _drop_conv_biases(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
