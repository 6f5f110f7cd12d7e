"""What Lightning does on a GPU before the first mask: that device is torch's default one.

``configure_model`` runs inside ``torch.device(...)`` of the accelerator. Here ``meta`` stands for
it: whatever is made there without saying where has no values, so reading or mixing it fails.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import Strategy

import vpns_lightning as vpns
from contract_pruners import Build, found, sparsity_of
from reference.toy_networks import ToyNet
from stages.toy_training import QUIET, new_trainer
from toy_run import Parts
from vpns_lightning.training.callbacks import freeze

pytestmark = [pytest.mark.filterwarnings(message) for message in QUIET]
PRUNERS = found()
OTHERS: dict[str, Build] = {
    "Hydra kaiming": lambda _: vpns.Hydra(score_init="kaiming"),
    "GraSP reinit": lambda _: vpns.GraSP(reinit_linear=True),
    "SNIP ratio": lambda _: vpns.SNIP(positions="ratio"),
    "StructuredVPNs inputs": lambda _: vpns.StructuredVPNs(gates="inputs", scope="global"),
    "Wanda 2:4": lambda _: vpns.Wanda(pattern="2:4"),
}
MAPPINGS: dict[str, Callable[[], vpns.LabelMapping]] = {
    "frequency": vpns.FrequencyMapping,
    "iterative": vpns.IterativeMapping,
    "random": vpns.RandomMapping,
    "identity": vpns.IdentityMapping,
    "linear": vpns.LinearHead,
}
PROMPTS: dict[str, Callable[[], vpns.Prompt | None]] = {
    "none": lambda: None,
    "pad": lambda: vpns.PadPrompt(16, 2),
    "fix": lambda: vpns.FixPrompt(16, 6, squash="sigmoid"),
    "random": lambda: vpns.RandomPrompt(16, 6),
    "expansive": lambda: vpns.ExpansivePrompt(16, 12),
    "low rank": lambda: vpns.LowRankPrompt(16, 2),
}


@pytest.fixture(autouse=True)
def _on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def elsewhere(self: Strategy, empty_init: bool | None = None) -> Iterator[None]:
        with torch.device("meta"):
            yield

    monkeypatch.setattr(Strategy, "tensor_init_context", elsewhere)


def train(parts: Parts, name: str) -> None:
    """Run one stage under a Trainer, and hand on as a run does."""
    stage = getattr(parts, name)
    trainer = new_trainer(stage.epochs, limit_val_batches=0, log_every_n_steps=1)
    trainer.fit(stage, datamodule=parts.data)
    freeze(stage)
    assert all(value.device.type == "cpu" for value in parts.network.state_dict().values())


def test_a_whole_run(tmp_path: Path) -> None:
    parts = Parts(epochs=1, prompt_stage={"epochs": 1})
    result = parts.fit(tmp_path, enable_progress_bar=False)
    assert result["gradient_steps"] == 4 * 3


@pytest.mark.parametrize("name", [*PRUNERS, *OTHERS])
def test_every_pruner_finds_masks(name: str) -> None:
    sparsity = sparsity_of(name, 0.5)
    train(Parts(pruner=(PRUNERS | OTHERS)[name](sparsity), sparsity=sparsity, epochs=1), "find")


@pytest.mark.parametrize("stage", ["warmup", "find", "tune", "prompt"])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_every_stage_fits_the_mapping_where_it_comes_first(stage: str, mapping: str) -> None:
    parts = Parts(
        epochs=1, mapping=MAPPINGS[mapping](), prompt_stage={"epochs": 1, "recalibrate": True}
    )
    train(parts, stage)
    assert bool(parts.network.mapping.fitted)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_prompt_is_learned(prompt: str) -> None:
    parts = Parts(epochs=1, prompt=False)
    network = vpns.PromptedClassifier(ToyNet(classes=6), 4, prompt=PROMPTS[prompt]())
    parts.network = parts.find.network = network
    train(parts, "find")


def test_a_mapping_is_fitted_on_the_pruned_network() -> None:
    parts = Parts(epochs=1, mapping=vpns.FrequencyMapping(slice_head=False))
    parts.find.mapping_on = "pruned"
    train(parts, "find")
