"""Two processes share the images, and a run stopped in mid-epoch goes on exactly."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

import toy_data
from vpns_lightning.base.batches import Stream
from vpns_lightning.data import Digits, ImageFolder


class Watcher(LightningModule):
    """Writes what each rank sees to files, as attributes do not come back from processes."""

    streams = (Stream("prompted"),)
    unaugmented: tuple[str, ...] = ()
    name, seed_name = "find", ""

    def __init__(self, folder: Path, stop_after: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.folder = folder
        self.stop_after = stop_after

    def note(self, kind: str, values: Tensor) -> None:
        with (self.folder / f"{kind}-{self.global_rank}.txt").open("a") as file:
            file.write("".join(f"{value}\n" for value in values.tolist()))

    def training_step(self, batch: dict[str, tuple[Tensor, Tensor]], batch_idx: int) -> Tensor:
        self.note("trained", batch["prompted"][0].double().sum((1, 2, 3)))
        return self.weight * 0

    def on_train_batch_end(self, *args: object) -> None:
        if self.global_step == self.stop_after:
            self.trainer.save_checkpoint(self.folder / "stopped.ckpt")
            self.trainer.should_stop = True

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.note("validated", batch[0].double().sum((1, 2, 3)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def run(folder: Path, stop_after: int = 0, resume: Path | None = None) -> None:
    folder.mkdir(exist_ok=True)
    data = Digits(input_size=8, batch_size=100)
    trainer(max_epochs=2).fit(
        Watcher(folder, stop_after), datamodule=data, ckpt_path=resume, weights_only=True
    )


def noted(folder: Path, kind: str, rank: int) -> list[float]:
    return [float(line) for line in (folder / f"{kind}-{rank}.txt").read_text().split()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_see_every_image_once_and_resume_exactly(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=11)
    run(tmp_path / "parts", resume=tmp_path / "parts" / "stopped.ckpt")
    for rank in (0, 1):
        whole = noted(tmp_path / "whole", "trained", rank)
        assert len(whole) == 2 * 719
        assert noted(tmp_path / "parts", "trained", rank) == whole
    data = Digits(input_size=8)
    images = data.eval_transform(data.dataset("test").__getitems__(list(range(360)))[0])
    seen = [value for rank in (0, 1) for value in noted(tmp_path / "whole", "validated", rank)]
    expected = images.double().sum((1, 2, 3)).tolist()
    assert sorted(seen) == pytest.approx(sorted(expected * 2))


class Counted(ImageFolder):
    """Notes in each process how often the file system is asked about an image."""

    def count(self) -> None:
        real, note = Path.stat, self.root / f"asked-{os.getpid()}"
        note.touch()

        def asked(path: Path, **options: bool) -> os.stat_result:
            if path.suffix == ".png":
                with note.open("a") as file:
                    file.write(f"{path}\n")
            return real(path, **options)

        Path.stat = asked  # type: ignore[assignment, method-assign]  # in a process of its own

    def prepare_data(self) -> None:
        self.count()
        super().prepare_data()

    def setup(self, stage: str | None = None) -> None:
        if not (self.root / f"asked-{os.getpid()}").exists():
            self.count()
        super().setup(stage)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_one_process_asks_about_each_file_once_for_all(tmp_path: Path) -> None:
    root = toy_data.make_layout("ImageFolder", tmp_path, images_per_class=10)
    data = Counted(str(root), input_size=16, batch_size=10, cache="resized")
    trainer(max_epochs=1).fit(Watcher(tmp_path), datamodule=data)
    asked = sorted(len(note.read_text().split()) for note in root.glob("asked-*"))
    few = 2  # one of each split, in case none at all is there
    assert asked == [0, 60 + few]
    assert len(noted(tmp_path, "trained", 0)) == len(noted(tmp_path, "trained", 1)) == 15
