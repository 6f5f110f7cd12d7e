"""Checkpoints of the authors' release become run folders that answer as the release would."""

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

import vpns_lightning as vpns
from reference.released_checkpoint import MEAN, STD, Checkpoint, corner, frame
from test_cli import refusal
from toy_data import noise
from vpns_lightning import cli
from vpns_lightning.commands import importing
from vpns_lightning.pruners import Stored
from vpns_lightning.released import (
    check_sparsity_of,
    check_values,
    derived_sparsity,
    masks_from,
    network_arguments,
    network_from,
    read_released,
)
from vpns_lightning.sparsity import get_masks


def small_net(seed: int = 0, classes: int = 1000) -> nn.Module:
    """Return a torchvision network of 1.2 million weights whose convolutions have biases."""
    torch.manual_seed(seed)
    return torchvision.models.squeezenet1_1(num_classes=classes)


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def convert(path: Path, backbone: str, classes: int, sparsity: float) -> vpns.PromptedClassifier:
    released = read_released(path)
    return network_from(released, network_arguments(released, backbone, classes), sparsity)


def agree(network: nn.Module, made: Checkpoint, size: int = 32) -> None:
    """Compare logits with the release's, prompted and plain."""
    for prompted in (True, False):
        with torch.no_grad():
            logits = network(images(size=size), prompted=prompted)
        expected = made.logits(images(size=size), prompted=prompted)
        assert float(expected.std()) > 1e-3
        largest = float(expected.abs().max())
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * max(1.0, largest))
        assert torch.equal(logits.argmax(1), expected.argmax(1))


def test_masks_keep_what_is_strictly_above_the_kth_smallest_magnitude() -> None:
    # sorted magnitudes .1 .2 .3 .4 .5: at 40 % the second smallest, .2, is the threshold
    scores = {"a": torch.tensor([0.1, -0.4, 0.2]), "b": torch.tensor([[-0.3], [0.5]])}
    masks = masks_from(scores, 0.4)
    assert masks["a"].tolist() == [False, True, False]
    assert masks["b"].tolist() == [[True], [True]]
    assert all(bool(mask.all()) for mask in masks_from(scores, 0.0).values())


@pytest.mark.parametrize("density", [0.9, 0.7, 0.4, 0.1])
def test_the_count_is_the_release_s_own(density: float) -> None:
    scores = {"a": torch.arange(1.0, 1001)}
    removed = int((~masks_from(scores, round(1 - density, 6))["a"]).sum())
    assert removed == int((1 - density) * 1000)  # 99 and not 100 at density 0.9


def test_scores_that_tie_are_refused() -> None:
    with pytest.raises(vpns.UserError, match=r"tie at the threshold.*1\.0000 of the weights"):
        masks_from({"a": torch.ones(100)}, 0.5)


@pytest.mark.parametrize(("region", "squash"), [(frame(40, 5), False), (corner(40, 11), True)])
def test_a_converted_network_answers_as_the_release(
    region: Tensor, squash: bool, tmp_path: Path
) -> None:
    made = Checkpoint(small_net(), classes=7, density=0.3, region=region, squash=squash, drop=True)
    agree(convert(made.save(tmp_path / "best.pth"), "squeezenet1_1", 7, 0.7), made)


def test_biases_that_the_file_has_are_kept(tmp_path: Path) -> None:
    made = Checkpoint(small_net(), classes=7, density=0.5, region=frame(36, 2))
    network = convert(made.save(tmp_path / "best.pth"), "squeezenet1_1", 7, 0.5)
    assert network.backbone.features[0].bias is not None
    agree(network, made)


@pytest.mark.parametrize(
    ("region", "kind", "prompt"),
    [
        (frame(20, 0), "auto", ("PadPrompt", {"canvas_size": 20, "pad_size": 0})),
        (frame(20, 10), "pad", ("PadPrompt", {"canvas_size": 20, "pad_size": 10})),
        (frame(21, 4), "auto", ("PadPrompt", {"canvas_size": 21, "pad_size": 4})),
        (
            frame(20, 10),
            "fix",
            ("FixPrompt", {"canvas_size": 20, "size": 20, "squash": "sigmoid"}),
        ),
    ],
)
def test_sizes_of_the_prompt_are_read_from_its_mask(
    region: Tensor, kind: Any, prompt: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    made = Checkpoint(small_net(), classes=3, density=0.5, region=region)
    released = read_released(made.save(tmp_path / "best.pth"))
    config = network_arguments(released, "squeezenet1_1", 3, kind)["prompt"]
    assert (config["class_path"].rpartition(".")[2], config["init_args"]) == prompt


@pytest.fixture(scope="module")
def made() -> Checkpoint:
    return Checkpoint(small_net(), classes=10, density=0.1, region=frame(40, 4), drop=True)


@pytest.fixture(scope="module")
def checkpoint(made: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.save(tmp_path_factory.mktemp("released") / "best.pth")


def command(checkpoint: Path, output: Path, **changes: str) -> list[str]:
    """Return the arguments of ``vpns import``, some of them changed."""
    options = {
        "backbone": "squeezenet1_1",
        "data": "Digits",
        "data.input_size": "32",
        "sparsity": "0.9",
        "accelerator": "cpu",
        **changes,
    }
    given = [f"--{key}={value}" for key, value in options.items()]
    return ["import", f"--checkpoint={checkpoint}", f"--output={output}", *given]


@pytest.fixture(scope="module")
def imported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "run"
    cli.main(command(checkpoint, folder))
    return folder


def test_an_imported_run_answers_as_the_release(imported: Path, made: Checkpoint) -> None:
    network = vpns.load(imported)
    assert not network.training
    agree(network, made)
    for name, mask in get_masks(network.backbone).items():
        assert torch.equal(mask, made.scores[name].abs() > made.threshold)


def test_an_imported_run_is_measured_both_ways(
    imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((imported / "result.json").read_text())
    assert result["imported"]
    assert (result["method"], result["dataset"], result["seed"]) == ("VPNs", "Digits", None)
    assert result["sparsity_requested"] == 0.9
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-5)
    assert result["gradient_steps"] is None
    assert (result["protocol"], result["headline"]) == ("released", "test_accuracy_plain")
    assert result["train_images"] == 1437
    assert "--sparsity=0.9" in result["command"]
    cli.main(["test", "--run", str(imported), "--accelerator", "cpu"])
    output = capsys.readouterr().out
    printed = json.loads(output[output.index("{") :])
    for key in ("test_accuracy", "test_accuracy_plain", "test_images"):
        assert printed[key] == result[key]
    assert printed["test_images"] == 360


def test_an_imported_run_stands_in_a_report(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["report", str(imported), "--output", str(tmp_path)])
    assert capsys.readouterr().out.startswith("1 run, figures and tables drawn: ")
    plain = 100 * json.loads((imported / "result.json").read_text())["test_accuracy_plain"]
    assert f"| VPNs (imported) | {plain:.2f} (1) |" in (tmp_path / "runs.md").read_text()
    assert "| VPNs (imported) | unknown |" in (tmp_path / "tabA3.md").read_text()
    assert not (tmp_path / "fig9.md").exists()


def test_an_imported_run_is_exported_and_predicts(
    imported: Path, made: Checkpoint, tmp_path: Path
) -> None:
    cli.main(["export", "--run", str(imported), "--output", str(tmp_path / "net.safetensors")])
    plain = torchvision.models.squeezenet1_1(num_classes=10).eval()
    plain.load_state_dict(load_file(tmp_path / "net.safetensors"))
    with torch.no_grad():
        logits = plain((images() - MEAN) / STD)
    expected = made.logits(images(), prompted=False)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    card = (tmp_path / "net.md").read_text()
    assert "| seed | not known |" in card
    assert "Imported from a checkpoint" in card
    noise(0, (20, 30)).save(tmp_path / "one.png")
    options = {"images": tmp_path / "one.png", "output": tmp_path / "predicted.csv"}
    given = [f"--{key}={value}" for key, value in options.items()]
    cli.main(["predict", f"--run={imported}", *given, "--accelerator=cpu"])
    with (tmp_path / "predicted.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == "one.png"
    assert row["class_1"] in {str(digit) for digit in range(10)}


def test_masks_of_an_imported_run_can_be_tuned_on(imported: Path, made: Checkpoint) -> None:
    arguments = {"source_classes": 1000, "mapping": vpns.IdentityMapping(slice_head=False)}
    target = vpns.PromptedClassifier("squeezenet1_1", 10, **arguments)
    target.fit_mapping()
    Stored(str(imported / "masks.safetensors")).attach(target, 0.9)
    for name, mask in get_masks(target.backbone).items():
        assert torch.equal(mask, made.scores[name].abs() > made.threshold)


def test_without_the_data_set_classes_are_numbers_and_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Checkpoint(small_net(), classes=100, density=0.1, region=frame(40, 4), drop=True)
    given = command(made.save(tmp_path / "best.pth"), tmp_path / "run", data="CIFAR100")
    cli.main([*given, f"--data.root={tmp_path}"])
    assert "no accuracy was measured" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test_accuracy"] is None
    assert result["train_images"] is None
    assert vpns.load(tmp_path / "run")(images()).shape == (3, 100)
    said = refusal(capsys, "test", "--run", str(tmp_path / "run"), "--root", str(tmp_path / "none"))
    assert "CIFAR100" in said


REFUSED = [
    ({"sparsity": "1.0"}, "sparsity must be a number in [0, 1)"),
    ({"sparsity": "-0.1"}, "sparsity must be a number in [0, 1)"),
    ({"backbone": "squeezenet1_0"}, "not of squeezenet1_0: key 'features.0.weight' is (64, 3, 3,"),
    ({"backbone": "resnet18"}, "not of resnet18: key 'fc.weight' is missing"),
    ({"backbone": "squeezenet11"}, "did you mean 'squeezenet1_1'"),
    ({"data": "CIFAR100"}, "maps 10 classes, but the data set has 100"),
    ({"data.input_size": "48"}, "set data.input_size to at most 40"),
    ({"prompt": "square"}, "'square'"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_what_does_not_fit_the_checkpoint_is_refused(
    changes: dict[str, str],
    said: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in refusal(capsys, *command(checkpoint, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_folder_with_a_run_is_left_alone(
    checkpoint: Path, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds a run already" in refusal(capsys, *command(checkpoint, imported))


def test_an_import_that_was_stopped_can_be_repeated(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing, "evaluate", interrupted)
        with pytest.raises(SystemExit):
            cli.main(command(checkpoint, tmp_path / "run"))
    cli.main(command(checkpoint, tmp_path / "run"))
    assert (tmp_path / "run" / "result.json").is_file()


def test_names_that_data_parallel_training_left_are_read(made: Checkpoint, tmp_path: Path) -> None:
    content = made.content()
    content["state_dict"] = {f"module.{k}": v for k, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "best.pth")
    agree(convert(tmp_path / "best.pth", "squeezenet1_1", 10, 0.9), made)


class Evil:
    """Pickled code that would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.path),)


def without(content: dict[str, Any], part: str, key: str) -> dict[str, Any]:
    return {**content, part: {k: v for k, v in content[part].items() if k != key}}


def test_what_is_no_such_checkpoint_is_refused_with_the_reason(
    made: Checkpoint, tmp_path: Path
) -> None:
    whole = made.content()
    state = whole["state_dict"]
    lopsided = frame(40, 4)
    lopsided[:, 20, 20] = 1
    grey = whole["visual_prompt"] | {"mask": frame(40, 4) * 0.5}
    scores = {k: v for k, v in state.items() if k.endswith("popup_scores")}
    cases = {
        "key 'mapping_sequence' is missing": {
            k: v for k, v in whole.items() if k != "mapping_sequence"
        },
        "key 'visual_prompt' is missing": {"state_dict": state},
        "it holds a list": [1, 2],
        "does not map names to tensors": whole | {"state_dict": {"a": 1}},
        "map names to tensors": whole | {"state_dict": {5: torch.zeros(1)}},
        "no layer has 'popup_scores'": whole
        | {"state_dict": {k: v for k, v in state.items() if k not in scores}},
        "lacks the tensor 'mask'": without(whole, "visual_prompt", "mask"),
        "lacks the tensor 'program'": without(whole, "visual_prompt", "program"),
        "zeros and ones": whole | {"visual_prompt": grey},
        "has no weight of its shape": without(whole, "state_dict", "features.0.weight"),
        "no list of source classes": whole | {"mapping_sequence": torch.tensor([0.5, 1.0])},
        "must be (3, S, S)": whole
        | {"visual_prompt": {"program": torch.zeros(3, 4, 5), "mask": torch.zeros(3, 4, 5)}},
        "got (3, 0, 0)": whole
        | {"visual_prompt": {"program": torch.zeros(3, 0, 0), "mask": torch.zeros(3, 0, 0)}},
        "holds more than tensors": whole | {"args": Evil(tmp_path / "ran")},
    }
    for said, content in cases.items():
        path = tmp_path / "bad.pth"
        torch.save(content, path)
        with pytest.raises(vpns.UserError) as refused:
            read_released(path)
        assert said in str(refused.value)
    assert not (tmp_path / "ran").exists()
    damaged = {
        "neither": "this is text",
        "prompt": whole | {"visual_prompt": {"program": made.program, "mask": lopsided}},
        "layer": without(whole, "state_dict", "features.3.squeeze.popup_scores"),
        "sequence": whole | {"mapping_sequence": torch.tensor([1000] * 10)},
        "nan": whole
        | {
            "state_dict": state
            | {
                "features.0.popup_scores": torch.full_like(
                    state["features.0.popup_scores"], torch.nan
                )
            }
        },
    }
    said_of = {
        "prompt": "neither a border of one width nor a square",
        "layer": "the masks lack layer 'features.3.squeeze'",
        "sequence": "leaves the head's 1000 classes",
        "nan": "scores that are NaN",
    }
    for name, said in said_of.items():
        torch.save(damaged[name], tmp_path / "bad.pth")
        with pytest.raises(vpns.UserError, match=said):
            convert(tmp_path / "bad.pth", "squeezenet1_1", 10, 0.9)


def test_damaged_and_foreign_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    contents = {
        "does not exist": None,
        "damaged or cut off": whole[: len(whole) // 2],
        "was not opened": pickle.dumps(Evil(tmp_path / "ran")),
    }
    for said, content in contents.items():
        path = tmp_path / "some.pth"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(vpns.UserError, match=said):
            read_released(path)
    for foreign in (b"", b"hello", b"\x80\x02"):
        path.write_bytes(foreign)
        with pytest.raises(vpns.UserError, match=r"damaged or cut off|was not opened"):
            read_released(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "drop"), [("resnet18", False), ("resnet50", False), ("vgg16", True)]
)
def test_the_paper_s_backbones_are_imported(backbone: str, drop: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.get_model(backbone)
    made = Checkpoint(net, classes=100, density=0.5, region=frame(40, 4), drop=drop)
    network = convert(made.save(tmp_path / "best.pth"), backbone, 100, 0.5)
    agree(network, made)
    missing = [name for name, _ in network.backbone.named_parameters() if name.endswith(".bias")]
    assert any("features" in name for name in missing) is (backbone == "vgg16" and not drop)


def tuned(path: Path, sparsity: float, **changes: Any) -> Path:
    """Write a checkpoint whose pruned weights have only decayed, as tuning leaves them."""
    made = Checkpoint(small_net(), classes=7, density=1 - sparsity, region=frame(40, 5), drop=True)
    content = made.content()
    masks = masks_from(made.scores, sparsity)
    draw = torch.Generator().manual_seed(1)
    initial = {}
    for name, mask in masks.items():
        final = content["state_dict"][f"{name}.weight"]
        initial[f"module.{name}.weight"] = before = torch.randn(final.shape, generator=draw)
        # 400 steps of decay round 400 times
        moved = before + 0.05 * torch.randn(final.shape, generator=draw)
        final.copy_(torch.where(mask, moved, before * 0.9871 * (1 + 1e-6)))
    torch.save({**content, "init_weight": initial, **changes}, path)
    return path


@pytest.mark.parametrize("sparsity", [0.9, 0.5, 0.01])
def test_the_sparsity_is_told_by_the_weights_that_only_decayed(
    sparsity: float, tmp_path: Path
) -> None:
    found = derived_sparsity(read_released(tuned(tmp_path / "best.pth", sparsity)))
    assert found == pytest.approx(sparsity, abs=1e-5)


@pytest.mark.parametrize("asked", [0.89, 0.91])
def test_another_sparsity_than_that_of_tuning_is_refused(asked: float, tmp_path: Path) -> None:
    released = read_released(tuned(tmp_path / "best.pth", 0.9))
    with pytest.raises(vpns.UserError, match=r"tuned at sparsity 0\.9000.*give --sparsity 0\.90"):
        check_sparsity_of(released, asked)
    assert check_sparsity_of(released, 0.9) is None


def test_a_checkpoint_without_initial_weights_says_that_it_does_not_tell(tmp_path: Path) -> None:
    released = read_released(tuned(tmp_path / "best.pth", 0.9, init_weight={}))
    assert "cannot be told" in str(check_sparsity_of(released, 0.8))


def bad_checkpoint(path: Path, fault: str) -> Path:
    content = torch.load(tuned(path, 0.5), weights_only=True)
    state = content["state_dict"]
    scores = [name for name in state if name.endswith("popup_scores")]
    if fault == "NaN":
        state[scores[0].replace("popup_scores", "weight")].view(-1)[3] = float("nan")
    elif fault == "half precision":
        state |= {name: state[name].half() for name in scores}
    else:
        content["mapping_sequence"][1] = content["mapping_sequence"][0]
    torch.save(content, path)
    return path


@pytest.mark.parametrize("fault", ["NaN", "half precision", "twice"])
def test_values_that_no_training_leaves_are_refused(fault: str, tmp_path: Path) -> None:
    with pytest.raises(vpns.UserError, match=fault):
        check_values(read_released(bad_checkpoint(tmp_path / "best.pth", fault)))


def test_a_prompt_may_be_wrapped_as_a_network_may(tmp_path: Path) -> None:
    plain = read_released(tuned(tmp_path / "best.pth", 0.5))
    prompt = torch.load(plain.path, weights_only=True)["visual_prompt"]
    wrapped = {f"module.{name}": value for name, value in prompt.items()}
    again = read_released(tuned(tmp_path / "wrapped.pth", 0.5, visual_prompt=wrapped))
    assert torch.equal(again.program, plain.program)  # type: ignore[arg-type]


def test_a_changed_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tuned(tmp_path / "best.pth", 0.5)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(vpns.UserError, match="damaged"):
        read_released(path)
