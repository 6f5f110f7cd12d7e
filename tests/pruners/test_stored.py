"""Masks from a file: what they are taken from, cut to, and refused for."""

from pathlib import Path
from typing import Any

import pytest
import torch

import vpns_lightning as vpns
from reference.toy_networks import ToyNet, ToyViT
from toy_run import Parts
from vpns_lightning.network import IdentityMapping, PadPrompt, PromptedClassifier
from vpns_lightning.pruners import Stored
from vpns_lightning.runs.handoff import save_masks
from vpns_lightning.runs.record import RunSoFar
from vpns_lightning.sparsity import get_masks, mask_layers, sparsity_report, unmask_layers

ABOUT = RunSoFar(seed=3, dataset="Digits", input_size=32)


def network(
    classes: int = 10, *, sequence: list[int] | None = None, prompt: int | None = 2, side: int = 12
) -> PromptedClassifier:
    """Return a toy network of ten source classes, its mapping fitted to a sequence."""
    made = PromptedClassifier(
        ToyNet(),
        classes,
        prompt=None if prompt is None else PadPrompt(side, prompt),
        mapping=Chosen(sequence or list(range(classes))),
    )
    made.fit_mapping()
    return made


class Chosen(IdentityMapping):
    """The mapping that a test wants."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.rows = rows

    def assign(self, counts: Any, source_classes: int) -> torch.Tensor:
        return torch.tensor(self.rows)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, PromptedClassifier]:
    """Return a file of random masks over the whole source head, and its network."""
    made = network()
    generator = torch.Generator().manual_seed(0)
    for mask in get_masks(made.backbone).values():
        mask.copy_(torch.rand(mask.shape, generator=generator) > 0.8)
    torch.nn.init.normal_(made.prompt.delta, generator=generator)
    path = tmp_path / "masks.safetensors"
    save_masks(path, made, ABOUT, method="VPNs")
    return path, made


def level(made: PromptedClassifier) -> float:
    return sparsity_report(made.backbone).sparsity


def test_masks_and_prompt_come_back(source: tuple[Path, PromptedClassifier]) -> None:
    path, made = source
    target = network()
    Stored(str(path)).attach(target, level(made))
    for name, mask in get_masks(target.backbone).items():
        assert torch.equal(mask, get_masks(made.backbone)[name])
    assert torch.equal(target.prompt.delta, made.prompt.delta)


def test_a_sliced_head_takes_the_rows_of_its_mapping(
    source: tuple[Path, PromptedClassifier],
) -> None:
    path, made = source
    target = network(4, sequence=[7, 2, 0, 5])
    Stored(str(path)).finish(target, level(made))
    assert torch.equal(target.backbone.head.mask, made.backbone.head.mask[[7, 2, 0, 5]])
    assert torch.equal(target.backbone.conv2.mask, made.backbone.conv2.mask)
    assert all(parameter.requires_grad for parameter in target.parameters())


def test_as_many_target_as_source_classes_in_another_order(
    source: tuple[Path, PromptedClassifier],
) -> None:
    path, made = source
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    target = network(10, sequence=order)
    Stored(str(path)).attach(target, level(made))
    assert torch.equal(target.backbone.head.mask, made.backbone.head.mask[order])


def test_a_head_stored_in_the_order_of_its_mapping_stays_in_it(tmp_path: Path) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    made = network(10, sequence=order)
    made.backbone.head.mask[0] = False
    save_masks(tmp_path / "masks.safetensors", made, ABOUT, method="VPNs")
    target = network(10, sequence=order)
    Stored(str(tmp_path / "masks.safetensors")).attach(target, level(made))
    assert torch.equal(target.backbone.head.mask, made.backbone.head.mask)


def test_the_prompt_can_start_anew(source: tuple[Path, PromptedClassifier]) -> None:
    path, made = source
    target = network()
    Stored(str(path), inherit_prompt=False).attach(target, level(made))
    assert not bool(target.prompt.delta.any())


def test_a_network_without_prompt_leaves_the_stored_one(
    source: tuple[Path, PromptedClassifier],
) -> None:
    path, made = source
    target = network(prompt=None)
    Stored(str(path)).attach(target, level(made))
    assert torch.equal(target.backbone.conv1.mask, made.backbone.conv1.mask)


def test_finding_takes_no_epoch_and_the_method_is_that_of_the_file(
    source: tuple[Path, PromptedClassifier],
) -> None:
    pruner = Stored(str(source[0]))
    assert pruner.epochs(30, 0.9) == 0
    assert pruner.method(prompted=True) == "VPNs (transferred)"


def test_another_prompt_is_refused(source: tuple[Path, PromptedClassifier]) -> None:
    path, made = source
    with pytest.raises(vpns.UserError, match=r"has a prompt of .*12.*, but the network's is of"):
        Stored(str(path)).attach(network(side=14), level(made))


def test_a_missing_prompt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    save_masks(path, network(prompt=None))
    with pytest.raises(vpns.UserError, match=r"has no prompt, .* inherit_prompt to false"):
        Stored(str(path)).attach(network(), 0.0)
    assert Stored(str(path)).method(prompted=True) == "VPNs w. Stored"


def test_another_sparsity_is_refused_with_the_right_one(
    source: tuple[Path, PromptedClassifier],
) -> None:
    path, made = source
    right = f"{level(made):.4f}"
    with pytest.raises(vpns.UserError, match=rf"have sparsity {right}, but find.sparsity is 0\.5"):
        Stored(str(path)).attach(network(), 0.5)


def test_masks_of_another_network_are_refused_by_layer(tmp_path: Path) -> None:
    class Wider(ToyNet):
        def __init__(self) -> None:
            super().__init__()
            self.conv2 = torch.nn.Conv2d(8, 9, 3)

    other = PromptedClassifier(Wider(), 10, mapping=IdentityMapping())
    path = tmp_path / "masks.safetensors"
    save_masks(path, other)
    with pytest.raises(vpns.UserError, match=r"masks\.safetensors: masks of .* layer 'conv2'"):
        Stored(str(path)).attach(network(), 0.0)


def test_a_head_that_was_sliced_before_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    save_masks(path, network(5))
    with pytest.raises(vpns.UserError, match="layer 'head' needs bool"):
        Stored(str(path)).attach(network(4), 0.0)


@pytest.mark.parametrize("content", [None, b"no tensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_files_without_masks_are_refused_before_anything_runs(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "masks.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(vpns.UserError, match=r"(cannot read masks|holds no masks)"):
        Stored(str(path))


def test_a_subnetwork_is_found_on_one_run_and_tuned_in_another(tmp_path: Path) -> None:
    found = Parts(epochs=1)
    found.fit(tmp_path / "source")
    path = tmp_path / "source" / "masks.safetensors"
    tuned = Parts(epochs=1, pruner=Stored(str(path)))
    result = tuned.fit(tmp_path / "target")
    assert result["method"] == "VPNs (transferred)"
    assert result["stages"]["find"]["gradient_steps"] == 0
    for name, mask in get_masks(tuned.network.backbone).items():
        assert torch.equal(mask, get_masks(found.network.backbone)[name])


def test_masks_of_a_version_that_left_attention_dense_keep_it_dense(tmp_path: Path) -> None:
    def transformer() -> PromptedClassifier:
        made = PromptedClassifier(ToyViT(), 10, mapping=IdentityMapping())
        made.fit_mapping()
        return made

    older = transformer()
    mask_layers(unmask_layers(older.backbone), exclude=["attention"])
    prunable = get_masks(older.backbone)
    assert not any("attention" in name for name in prunable)
    for mask in prunable.values():
        mask.flatten()[: mask.numel() // 2] = False
    path = tmp_path / "masks.safetensors"
    save_masks(path, older, ABOUT)
    newer = transformer()
    pruner = Stored(str(path))
    pruner.attach(newer, level(older))
    pruner.finish(newer, level(older))
    for name, mask in get_masks(newer.backbone).items():
        expected = torch.ones_like(mask) if "attention" in name else prunable[name]
        assert torch.equal(mask, expected), name
