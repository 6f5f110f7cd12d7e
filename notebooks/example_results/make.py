"""Make the results that `03_figures.ipynb` draws: a small network on scikit-learn's digits.

    python notebooks/example_results/make.py

Four methods and the dense network, four sparsities, two seeds, a few seconds each on a CPU. Only
`result.json` of each run is kept. The numbers rank nothing: 3 epochs of dense warm-up, then 2 + 2.
"""

import json
import sys
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.optim import SGD, Adam

import vpns_lightning as vpns

HERE = Path(__file__).parent


class SmallNet(nn.Module):
    """Three convolutions and a classifier; 24,112 weights."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(after))
        self.fc = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        x = images
        for i in (1, 2, 3):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)).relu()
        return self.fc(x.mean((2, 3)))


PRUNERS = {"VPNs": vpns.Hydra, "HYDRA": vpns.Hydra, "OMP": vpns.OMP, "Random": vpns.Random}


def run(method: str, sparsity: float, seed: int, folder: str) -> dict[str, object]:
    """Return the result of one run."""
    seed_everything(seed, verbose=False)
    data = vpns.Digits(folder, input_size=16, batch_size=64, num_workers=0)
    prompt = vpns.PadPrompt(canvas_size=20, pad_size=2) if method == "VPNs" else None
    mapping = vpns.IdentityMapping()
    network = vpns.PromptedClassifier(SmallNet(), data.num_classes, prompt=prompt, mapping=mapping)
    pruner = PRUNERS.get(method, vpns.Dense)()
    learns = method in ("VPNs", "HYDRA")
    sgd = partial(SGD, lr=0.05, momentum=0.9, fused=True)
    return vpns.fit_stages(
        network,
        data,
        warmup=vpns.SubnetworkTuning(network, epochs=3, stage="warmup", views=["plain"], optimizer=sgd),
        find=vpns.MaskFinding(network, pruner, sparsity=sparsity, epochs=2, optimizer=partial(Adam, lr=0.01, fused=True) if learns else None),
        tune=vpns.SubnetworkTuning(network, epochs=2 if learns else 4, optimizer=sgd),
        run_dir=f"{folder}/run",
        trainer={"accelerator": "cpu", "enable_progress_bar": False, "check_val_every_n_epoch": 100},
        seed=seed,
    )


def main() -> None:
    """Run all cells and keep their results."""
    sys.argv = ["notebooks/example_results/make.py"]
    cells = [*product(PRUNERS, (0.5, 0.8, 0.9, 0.95), (7, 9)), ("Dense", 0.0, 7), ("Dense", 0.0, 9)]
    for method, sparsity, seed in cells:
        with TemporaryDirectory() as folder:
            result = run(method, sparsity, seed, folder)
        result["data_folder"] = ""
        place = HERE / f"digits_{method.lower()}_s{100 * sparsity:g}_seed{seed}"
        place.mkdir(exist_ok=True)
        (place / "result.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
