"""A ViT-B/16 of torchvision and of timm from finding to a report of its speed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vpns_lightning as vpns
from vpns_lightning.cli import main
from vpns_lightning.sparsity import prune_count

BACKBONES = {
    "torchvision": {"class_path": "vit_b_16", "init_args": {"image_size": 32}},
    "timm": {"class_path": "timm/vit_base_patch16_224", "init_args": {"img_size": 32}},
}
DENSE = {"torchvision": "class_token, encoder.pos_embedding", "timm": "cls_token, pos_embed"}
ATTENTION = {
    "torchvision": ("encoder_layer_0.self_attention.in_proj", "0.self_attention.out_proj"),
    "timm": ("blocks.0.attn.qkv", "blocks.0.attn.proj"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BACKBONES)
def test_found_tuned_exported_and_measured(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", tmp_path / "net.safetensors"
    main(
        [
            *("fit", f"--network.backbone={json.dumps(BACKBONES[kind])}"),
            *("--network.mapping", "IdentityMapping", "--find.pruner", "SNIP"),
            *("--find.sparsity", "0.5", "--find.epochs", "0", "--tune.epochs", "1"),
            *("--data", "Digits", "--data.input_size", "32", "--data.batch_size", "2"),
            *("--data.limit_per_class", "1", "--data.limit_test_per_class", "1"),
            *("--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "1"),
            *("--trainer.limit_val_batches", "1", "--trainer.default_root_dir", str(run)),
        ]
    )
    said = capsys.readouterr().out
    assert f"stays dense besides biases and normalisation: {DENSE[kind]} (4,608 of" in said
    result = json.loads((run / "result.json").read_text())
    total = result["weights_prunable"]
    assert total == 85_532_160  # patches, 12 blocks with their attention, head
    assert result["weights_kept"] == total - prune_count(total, 0.5)
    layers = result["sparsity_per_layer"]
    assert all(any(layer.endswith(name) for layer in layers) for name in ATTENTION[kind])
    main(["export", "--run", str(run), "--output", str(file)])
    network = vpns.load(run)
    state = load_file(file)
    assert state.keys() == network.backbone.state_dict().keys()
    zeros = sum(int((tensor == 0).sum()) for key, tensor in state.items() if tensor.ndim > 1)
    assert zeros >= prune_count(total, 0.5)
    quick = {"runtimes": "eager", "batch_sizes": 1, "memory_batch": 0, "rounds": 1, "seconds": 1}
    main(["bench", "--run", str(run), *(f"--{key}={value}" for key, value in quick.items())])
    assert (run / "bench.md").is_file()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)
