"""What a stage refuses, restores, seeds and counts."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from reference.toy_networks import ToyNet
from stages.toy_training import QUIET, ToyData, fit, new_network, new_trainer, views_of
from toy_run import Parts
from vpns_lightning.base.errors import UserError
from vpns_lightning.base.seeds import derive_seed
from vpns_lightning.network import (
    FixPrompt,
    IdentityMapping,
    IterativeMapping,
    LowRankPrompt,
    PadPrompt,
    Prompt,
    PromptedClassifier,
    RandomPrompt,
    greedy_assignment,
)
from vpns_lightning.pruners import Dense, Hydra
from vpns_lightning.sparsity import get_masks, masked_layers
from vpns_lightning.stages import MaskFinding, Stage, SubnetworkTuning

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]


def finding(network: PromptedClassifier, epochs: int = 1) -> MaskFinding:
    return MaskFinding(network, Hydra(), sparsity=0.5, epochs=epochs)


def tuning(network: PromptedClassifier, epochs: int = 1) -> SubnetworkTuning:
    return SubnetworkTuning(network, epochs=epochs)


BUILDERS = [finding, tuning]


def checkpoint_of(stage: Stage, path: Path) -> str:
    fit(stage, ToyData(**views_of(2))).save_checkpoint(path)
    return str(path)


def test_a_checkpoint_of_the_other_stage_is_refused(tmp_path: Path) -> None:
    path = checkpoint_of(finding(new_network()), tmp_path / "find.ckpt")
    stage = tuning(new_network())
    with pytest.raises(UserError, match="is of stage 'find', but 'tune' was to be resumed"):
        new_trainer(1).fit(stage, datamodule=ToyData(**views_of(2)), ckpt_path=path)


def test_a_checkpoint_of_a_warm_up_is_refused_by_tuning(tmp_path: Path) -> None:
    stage = SubnetworkTuning(new_network(), epochs=1, name="warmup")
    path = checkpoint_of(stage, tmp_path / "warmup.ckpt")
    with pytest.raises(UserError, match="is of stage 'warmup', but 'tune'"):
        new_trainer(1).fit(tuning(new_network()), datamodule=ToyData(**views_of(2)), ckpt_path=path)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({}, "is of stage None"),
        ({"vpns": {"stage": "find", "schema": 99, "version": "9.9"}}, "9.9, which is newer"),
    ],
)
def test_a_checkpoint_of_another_program_is_refused(about: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finding(new_network()).on_load_checkpoint(about)


@pytest.mark.parametrize("build", BUILDERS)
def test_a_resumed_stage_ends_as_an_uninterrupted_one(
    tmp_path: Path, build: Callable[[PromptedClassifier, int], Stage]
) -> None:
    data = ToyData(**views_of(2))
    straight = build(new_network(), 3)
    fit(straight, data)

    interrupted = build(new_network(), 3)
    first = new_trainer(1)
    first.fit(interrupted, datamodule=data)
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed = build(new_network(), 3)
    new_trainer(3).fit(resumed, datamodule=data, ckpt_path=str(tmp_path / "last.ckpt"))
    assert resumed.passes == straight.passes == 6
    theirs = resumed.network.state_dict()
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("build", BUILDERS)
def test_a_fresh_network_resumes_with_the_sliced_head_of_the_checkpoint(
    tmp_path: Path, build: Callable[[PromptedClassifier, int], Stage]
) -> None:
    data = ToyData(**views_of(2))
    straight = build(new_network(), 2)
    fit(straight, data)
    interrupted = build(new_network(), 2)
    first = new_trainer(1)
    first.fit(interrupted, datamodule=data)
    first.save_checkpoint(tmp_path / "last.ckpt")

    fresh = PromptedClassifier(ToyNet(seed=5), 4, prompt=PadPrompt(14, 3))
    resumed = build(fresh, 2)
    trainer = new_trainer(2)
    trainer.ckpt_path = str(tmp_path / "last.ckpt")
    trainer.fit(resumed, datamodule=data)
    theirs = resumed.network.state_dict()
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, theirs[name]), name


class MappedData(ToyData):
    """Toy data on which a label mapping can be fitted."""

    def mapping_dataloader(self, *, augmented: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [(images, labels, labels) for images, labels in self.views["plain"]]

    def mapping_transform(self, images: Tensor, rows: Tensor, *, augmented: bool) -> Tensor:
        return images


def test_the_mapping_is_fitted_on_the_dense_network_before_finding() -> None:
    data = MappedData(**views_of(3))
    network = PromptedClassifier(ToyNet(), 4, prompt=PadPrompt(14, 3))
    dense = PromptedClassifier(ToyNet(), 4, prompt=PadPrompt(14, 3))
    expected = greedy_assignment(dense.count_predictions(data.views["plain"]))
    fit(finding(network), data)
    assert torch.equal(network.mapping.sequence, expected)
    assert network.backbone.head.out_features == 4


@pytest.mark.parametrize("build", BUILDERS)
def test_resuming_does_not_pass_over_the_images_for_the_mapping_again(
    tmp_path: Path, build: Callable[[PromptedClassifier, int], Stage]
) -> None:
    path = checkpoint_of(build(new_network(), 1), tmp_path / "last.ckpt")
    resumed = build(PromptedClassifier(ToyNet(), 4, prompt=PadPrompt(14, 3)), 2)
    trainer = new_trainer(2)
    trainer.ckpt_path = path  # known before the network is configured, as the pipeline does it
    trainer.fit(resumed, datamodule=ToyData(**views_of(2)))


def test_iterative_mapping_is_refitted_every_few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PromptedClassifier(ToyNet(), 4, mapping=IterativeMapping(every=2))
    fitted: list[Tensor] = []
    fit_counts = network.fit_mapping

    def remember(counts: Tensor) -> None:
        fit_counts(counts)
        fitted.append(counts)

    monkeypatch.setattr(network, "fit_mapping", remember)
    fit(finding(network, 5), MappedData(**views_of(2)))
    assert len(fitted) == 3  # before epochs 0, 2 and 4


@pytest.mark.parametrize(
    ("views", "prompted"),
    [(("prompted",), True), (("prompted", "plain"), True), (("plain",), False)],
)
def test_iterative_mapping_is_refitted_on_the_images_that_are_trained_on(
    monkeypatch: pytest.MonkeyPatch, views: tuple[str, ...], prompted: bool
) -> None:
    network = PromptedClassifier(ToyNet(), 4, prompt=PadPrompt(14, 3), mapping=IterativeMapping())
    shown: list[bool] = []
    count = network.count_predictions

    def remember(batches: Any, *, prompted: bool) -> Tensor:
        shown.append(prompted)
        return count(batches, prompted=prompted)

    monkeypatch.setattr(network, "count_predictions", remember)
    data = {view: batches for view, batches in views_of(2).items() if view in views}
    stage = SubnetworkTuning(network, epochs=3, views=views)
    fit(stage, MappedData(**{"plain": views_of(2)["plain"], **data}))
    assert shown == [False, prompted, prompted]


class ScalarReads(TorchDispatchMode):
    """Counts operations that wait for the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__
        if name in {"_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero"}:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_counter_of_scalar_reads_sees_them() -> None:
    with ScalarReads() as reads:
        float(torch.ones(()).add(1))
        bool(torch.ones(()) > 0)
    assert sum(reads.counts.values()) >= 2


@pytest.mark.parametrize("views", [["prompted"], ["prompted", "plain"]])
@pytest.mark.parametrize("kind", [MaskFinding, SubnetworkTuning])
def test_a_training_step_reads_no_scalar(kind: type[Stage], views: list[str]) -> None:
    network = new_network()
    stage: Stage
    if kind is MaskFinding:
        stage = MaskFinding(network, Hydra(), sparsity=0.5, epochs=1, views=views)
    else:
        stage = SubnetworkTuning(network, epochs=1, views=views)
    reads, step = ScalarReads(), stage.training_step

    def counted(batch: Any, batch_idx: int) -> None:
        with reads:
            step(batch, batch_idx)

    stage.training_step = counted  # type: ignore[method-assign]
    fit(stage, ToyData(**views_of(4)))
    assert stage.passes == 4 * len(views)
    assert reads.counts == {}


def test_seeds_are_a_pure_function_of_their_parts() -> None:
    torch.manual_seed(0)
    first = derive_seed(7, "find", 0, 3, 1)
    torch.manual_seed(1)
    assert derive_seed(7, "find", 0, 3, 1) == first == 1680886150221284206


def test_seeds_differ_in_every_part_and_fit_in_63_bits() -> None:
    parts = [(s, n, e, b) for s in (7, 9) for n in ("find", "tune") for e in (0, 1) for b in (0, 1)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_steps_are_seeded_by_stage_epoch_and_batch_alone() -> None:
    def draws() -> list[float]:
        stage = finding(new_network(), 2)
        drawn: list[float] = []
        loss_of = stage.loss

        def noisy(view: str, batch: tuple[Tensor, Tensor]) -> Tensor:
            drawn.append(torch.rand(()).item())
            return loss_of(view, batch)

        stage.loss = noisy  # type: ignore[method-assign]
        fit(stage, ToyData(**views_of(2)))
        return drawn

    torch.manual_seed(1)
    first = draws()
    torch.manual_seed(2)
    assert draws() == first
    assert len(set(first)) == 4


def test_finding_trains_scores_and_prompt_only() -> None:
    network = new_network()
    before = {name: value.clone() for name, value in network.named_parameters()}
    fit(finding(network, 2), ToyData(**views_of(3)))
    after = dict(network.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"prompt.delta"}


def test_tuning_leaves_the_masks_bit_identical_and_pruned_weights_zero() -> None:
    network = new_network()
    for mask in get_masks(network.backbone).values():
        mask.copy_(torch.rand(mask.shape) > 0.6)
    masks = {name: mask.clone() for name, mask in get_masks(network.backbone).items()}
    fit(tuning(network, 2), ToyData(**views_of(3)))
    for name, layer in masked_layers(network.backbone):
        assert torch.equal(layer.mask, masks[name])
        assert not bool(layer.weight[~layer.mask].any())
        assert not layer.baked


def test_the_prompt_can_have_a_learning_rate_of_its_own() -> None:
    stage = SubnetworkTuning(new_network(), epochs=1, prompt_lr=0.5)
    (optimizer,) = stage.make_optimizers()
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "backbone": 0.01,
        "prompt": 0.5,
    }


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "at least one"),
        (["plain", "plain"], "at most once"),
        (["promted"], "did you mean 'prompted'"),
    ],
)
def test_views_that_make_no_sense_are_refused(views: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SubnetworkTuning(new_network(), views=views)


def test_negative_epochs_are_refused() -> None:
    with pytest.raises(UserError, match="epochs must be >= 0, got -1"):
        SubnetworkTuning(new_network(), epochs=-1)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2])
def test_finding_refuses_a_sparsity_that_is_no_fraction(sparsity: float) -> None:
    with pytest.raises(UserError, match="sparsity must be a number"):
        MaskFinding(new_network(), Hydra(), sparsity=sparsity)


def test_mapping_on_the_pruned_network_needs_the_whole_head() -> None:
    with pytest.raises(UserError, match="keeps the whole head"):
        MaskFinding(new_network(), Hydra(), sparsity=0.5, mapping_on="pruned")


def test_an_unfitted_mapping_without_images_to_fit_it_on_is_refused() -> None:
    network = PromptedClassifier(new_network().backbone, 4, prompt=PadPrompt(14, 3))
    with pytest.raises(UserError, match="label mapping is not fitted"):
        fit(finding(network), ToyData(**views_of(1)))


def test_data_of_other_classes_are_refused() -> None:
    data = ToyData(**views_of(1))
    data.num_classes = 5
    with pytest.raises(UserError, match="data have 5 classes, the network has 4"):
        fit(finding(new_network()), data)


def test_the_dense_pruner_finds_in_no_epochs() -> None:
    assert MaskFinding(new_network(), Dense(), sparsity=0, epochs=30).epochs == 0


# torch's own, while it compiles
compiling = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")


class Graphs:
    """Stands in for the compiler: keeps graphs, and runs them operator by operator."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.compiler.reset()
        self.kept: list[GraphModule] = []
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=self.keep))

    def keep(self, graph: GraphModule, inputs: Any) -> Callable[..., Any]:
        self.kept.append(graph)
        return graph.forward

    def calls(self) -> list[set[str]]:
        return [{getattr(n.target, "__name__", "") for n in g.graph.nodes} for g in self.kept]


# of 48 images: two whole batches and one of 8; one whole batch; one that is never whole
@compiling
@pytest.mark.parametrize("batch_size", [20, 48, 64])
def test_a_smaller_last_batch_compiles_nothing_anew(
    batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(monkeypatch)
    parts = Parts(epochs=2)
    parts.warmup = parts.tune = None
    parts.data.batch_size = batch_size
    parts.network.compiled = True
    parts.fit(tmp_path, enable_progress_bar=False)
    assert len(graphs.kept) == 1


PROMPTS: dict[str, Callable[[], Prompt | None]] = {
    "pad": lambda: PadPrompt(14, 3),
    "drawn place": lambda: RandomPrompt(14, 6),
    "fixed": lambda: FixPrompt(14, 6, squash="sigmoid", clamp="native"),
    "low rank": lambda: LowRankPrompt(14, 2),
    "none": lambda: None,
}


@compiling
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "drawn place" else [pytest.mark.slow]) for n in PROMPTS],
)
def test_prompt_normalisation_backbone_and_loss_are_one_graph_with_the_same_end(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(compiled: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = PromptedClassifier(
            ToyNet(classes=4), 4, prompt=PROMPTS[name](), mapping=IdentityMapping()
        )
        network.compiled = compiled
        network.fit_mapping()
        find = finding(network)
        fit(find, ToyData(**views_of(3)))
        find.pruner.finish(network, 0.5)
        fit(tuning(network), ToyData(**views_of(3)))
        return network.state_dict()

    expected = trained(False)
    graphs = Graphs(monkeypatch)
    found = trained(True)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert len(graphs.kept) == 2
    for calls in graphs.calls():
        assert {"cross_entropy", "sub", "truediv"} <= calls
        # only what draws from torch's generator stays outside
        assert ("pad" in calls) == (name not in {"drawn place", "none"})


@compiling
@pytest.mark.slow
def test_equal_networks_share_their_graphs_and_others_have_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = Graphs(monkeypatch)
    kinds = [type(f"Net{number}", (ToyNet,), {}) for number in range(6)]
    for number in (1, 1, 2, 3, 4, 5):  # torch keeps no more than eight graphs of one function
        network = new_network(backbone=kinds[number](classes=10 * number))
        network.compiled = True
        stage = MaskFinding(network, Hydra(), sparsity=0.5, epochs=1, views=("prompted", "plain"))
        fit(stage, ToyData(**views_of(2)))
        assert len(graphs.kept) == 2 * number


def test_a_hook_on_the_network_is_heard_by_the_loss() -> None:
    """GraSP softens the logits so; a loss that went around the module would not be softened."""
    parts = Parts()
    parts.network.fit_mapping(torch.eye(6)[:4].long().T)
    images, labels = torch.rand(8, 3, 12, 12), torch.arange(8) % 4
    parts.network.eval()
    forward = parts.find.forward_loss
    _, logits = forward(parts.network, images, labels, prompted=True)
    handle = parts.network.register_forward_hook(lambda _, __, out: out / 200)
    loss, softened = forward(parts.network, images, labels, prompted=True)
    handle.remove()
    assert torch.equal(softened, logits / 200)
    assert torch.equal(loss, functional.cross_entropy(logits / 200, labels))
