"""What `vpns bench` measures: rounds, bytes, counts, and the sentences about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toy_folder import SIDE, finished_network, write_folder
from vpns_lightning import cli
from vpns_lightning.base.errors import UserError
from vpns_lightning.benchmarking import (
    Missing,
    Plan,
    Rounds,
    chosen_precision,
    chosen_runtimes,
    compare_counts,
    fold,
    interleave,
    markdown,
    measure,
    remarks,
    runtimes,
    training_memory,
    two_of_four,
)
from vpns_lightning.network import IdentityMapping, PromptedClassifier
from vpns_lightning.runs.loading import dense_twin, load_run
from vpns_lightning.sparsity import get_masks, masked_layers, unmask_layers


def test_the_speed_up_is_the_median_of_the_rounds() -> None:
    # a machine that is slow in the last rounds slows both
    rounds = Rounds([2.0, 2.2, 6.0], [1.0, 2.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 4.0])
    assert rounds.speedup() == 2.0
    assert rounds.medians() == (2.2, 2.0)
    assert rounds.processor() == (2.0, 1.0)
    assert rounds.spread() == pytest.approx((1.55, 2.5))


class Clock:
    """A clock that stands still unless something is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def task(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds
            self.calls.append(name)

        return call


def test_rounds_are_interleaved_and_their_medians_compared() -> None:
    clock = Clock()
    dense, pruned = clock.task("d", 2.0), clock.task("p", 0.5)
    timed = interleave(dense, pruned, warmup=2, rounds=6, seconds=1e9, clock=lambda: clock.now)
    assert "".join(clock.calls) == "dpdp" + "dppd" * 3
    assert timed.dense == [2.0] * 6
    assert timed.medians() == (2.0, 0.5)
    assert timed.speedup() == 4.0
    assert timed.spread() == (4.0, 4.0)
    assert len(timed.dense_processor) == len(timed.pruned_processor) == 6
    assert max(timed.processor()) < 0.1  # nothing was computed


def test_a_slow_pair_is_timed_five_times_and_warmed_up_once() -> None:
    clock = Clock()
    timed = interleave(
        clock.task("d", 30.0),
        clock.task("p", 20.0),
        warmup=10,
        rounds=50,
        seconds=60,
        clock=lambda: clock.now,
    )
    assert len(timed.dense) == len(timed.pruned) == 5
    assert len(clock.calls) == 2 + 2 * 5


def test_what_the_device_still_does_is_waited_for() -> None:
    clock = Clock()
    timed = interleave(
        clock.task("d", 1.0),
        clock.task("p", 1.0),
        warmup=0,
        rounds=5,
        seconds=1e9,
        wait=clock.task("", 0.25),
        clock=lambda: clock.now,
    )
    assert set(timed.dense + timed.pruned) == {1.25}


def toy(side: int = 8) -> PromptedClassifier:
    """Return a convolution of 108 weights and a linear layer of 2,560 at 8 px."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * side**2, 10))
    network = PromptedClassifier(nn.Sequential(*layers), 10, mapping=IdentityMapping())
    network.fit_mapping()
    return network.eval()


def plain(network: PromptedClassifier) -> PromptedClassifier:
    unmask_layers(network.backbone)
    return network


def test_macs_and_parameters_against_a_hand_count() -> None:
    pruned = toy()
    mask = get_masks(pruned.backbone)["0"]
    mask[:2] = False
    counts = compare_counts(pruned, plain(toy()), 8)
    # 64 places of 27 x 4 products, and 256 x 10; half of the convolution's are gone
    assert counts["macs"] == {"dense": 9472, "pruned": 6016, "ratio": pytest.approx(9472 / 6016)}
    assert counts["parameters"]["dense"] == 108 + 4 + 2560 + 10
    assert counts["parameters"]["pruned"] == 54 + 4 + 2560 + 10
    assert counts["sparsity"] == pytest.approx(54 / 2668)
    assert not counts["cut"]


def test_a_network_with_fewer_channels_counts_as_cut() -> None:
    small = nn.Sequential(
        nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )
    cut = PromptedClassifier(small, 10, mapping=IdentityMapping())
    cut.fit_mapping()
    counts = compare_counts(plain(cut).eval(), plain(toy()), 8)
    assert counts["cut"]
    assert counts["macs"]["ratio"] == 2.0


def test_training_memory_is_weights_gradients_and_momentum() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, 4000, bias=False))
    network = PromptedClassifier(wide, 4000, mapping=IdentityMapping())
    weight = 4 * 192 * 4000  # bytes
    masks = weight // 4
    batch = 4 * (3 * 192 + 4000) * 4  # images, normalised images, logits: well below a weight
    found = training_memory(plain(network), 8, 4, torch.device("cpu"))
    assert 3 * weight <= found <= 3 * weight + 6 * batch
    masked = PromptedClassifier(wide, 4000, mapping=IdentityMapping())
    again = training_memory(masked, 8, 4, torch.device("cpu"))
    assert again == found + masks


def test_measuring_memory_leaves_the_network_and_the_terminal_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    network = toy()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training_memory(network, 8, 2, torch.device("cpu"))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.training
    assert capfd.readouterr().err == ""


def test_folding_keeps_the_answers_and_leaves_ordinary_layers() -> None:
    network = finished_network()
    folded = fold(network)
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images))
    assert not list(masked_layers(folded.backbone))
    assert list(masked_layers(network.backbone))


def test_two_of_four_keeps_the_two_largest_of_each_four() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 0.0, 0.0, -1.0, 4.0]])
    kept = torch.tensor([[0.0, -3.0, 2.0, 0.0, 0.0, 0.0, -1.0, 4.0]])
    assert torch.equal(two_of_four(weight), kept)
    assert torch.equal(two_of_four(kept), kept)


def timing(speedup: float, runtime: str = "eager", lower: float | None = None) -> dict[str, Any]:
    quartiles = (speedup if lower is None else lower, speedup)
    place = {"runtime": runtime, "device": "cpu", "batch_size": 1}
    return {**place, "speedup": speedup, "speedup_quartiles": quartiles}


@pytest.mark.parametrize(
    ("found", "cut", "said"),
    [
        ([timing(1.02)], False, "eager on cpu: no speed-up (1.02x at batch 1): unstructured zeros"),
        ([timing(1.5, lower=0.8)], False, "no speed-up"),
        ([timing(0.9)], True, "moving data and starting operations cost more"),
        ([timing(0.9, "2:4")], False, "a small part of this network"),
    ],
)
def test_no_speed_up_is_said_with_its_reason(
    found: list[dict[str, Any]], cut: bool, said: str
) -> None:
    assert said in remarks(found, cut=cut)[-1]


def test_a_speed_up_needs_no_remark() -> None:
    assert remarks([timing(1.8), timing(1.0)], cut=True) == []


@pytest.mark.parametrize(
    ("names", "said"), [("egaer", "did you mean 'eager'"), ("", "runtime '' is unknown")]
)
def test_an_unknown_runtime_is_refused(names: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        chosen_runtimes(names)


def test_runtimes_are_taken_in_order_and_once() -> None:
    assert chosen_runtimes("onnxruntime, eager,onnxruntime") == ["onnxruntime", "eager"]


def quick(*names: str) -> Plan:
    return Plan(["cpu"], names, batch_sizes=[1, 2], memory_batch=2, warmup=1, rounds=5, seconds=5)


def test_a_runtime_that_fails_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        def call(images: torch.Tensor) -> None:
            raise RuntimeError("no C++ compiler\nfound")

        return call

    monkeypatch.setattr(runtimes.torch, "compile", broken)
    found = measure(toy(), plain(toy()), 8, quick("compiled", "eager", "2:4"))
    reasons = {each["runtime"]: each["reason"] for each in found["not_measured"]}
    assert reasons["compiled"] == "torch.compile failed: no C++ compiler"
    assert reasons["2:4"] == "2:4 kernels exist for CUDA devices only"
    assert {each["runtime"] for each in found["timings"]} == {"eager"}


def test_a_training_step_that_cannot_be_taken_leaves_the_timings() -> None:
    normalised = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    network = PromptedClassifier(normalised, 5, mapping=IdentityMapping()).eval()
    network.fit_mapping()
    found = measure(network, network, 8, quick("eager")._replace(memory_batch=1))
    assert found["timings"]
    assert not found["training_memory_bytes"]
    (missing,) = found["not_measured"]
    assert missing["runtime"] == "training memory"
    assert "larger memory_batch" in missing["reason"]
    assert "training memory on cpu: not measured" in markdown(found)


def test_2_4_needs_a_linear_layer_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shape")

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", refuse)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    network = plain(toy())
    monkeypatch.setattr(network, "to", lambda device: network)
    with pytest.raises(Missing, match="the sides of none here fit them"):
        runtimes.RUNTIMES["2:4"].prepare(network, torch.device("cuda"), 8, Path(), True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(Missing, match=r"8\.0 \(Ampere\)"):
        runtimes.RUNTIMES["2:4"].prepare(network, torch.device("cuda"), 8, Path(), True)


def test_2_4_kernels_are_tried_before_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(images: torch.Tensor) -> None:
        raise NotImplementedError("no kernel of sm_120\nat length")

    network = plain(toy())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    monkeypatch.setattr(network, "to", lambda device: network)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: tensor)
    monkeypatch.setattr(network, "forward", failing)
    with pytest.raises(Missing, match=r"2:4 kernels fail here: no kernel of sm_120$"):
        runtimes.RUNTIMES["2:4"].prepare(network, torch.device("cuda"), 8, Path(), False)


def test_what_fails_while_it_is_timed_leaves_the_other_timings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(images: torch.Tensor) -> None:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    broken = runtimes.Runtime(lambda *arguments: full)
    monkeypatch.setitem(runtimes.RUNTIMES, "onnxruntime", broken)
    found = measure(toy(), plain(toy()), 8, quick("onnxruntime", "eager"))
    taken = [(each["runtime"], each["batch_size"]) for each in found["timings"]]
    assert taken == [("onnxruntime", 1), ("eager", 1), ("eager", 2)]
    (missing,) = found["not_measured"]
    assert missing["reason"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_networks_answer_and_train_in_the_precision_that_is_asked_for(
    precision: runtimes.Precision,
) -> None:
    network = toy()
    seen = []
    convolution = next(m for m in network.backbone.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda layer, images, output: seen.append(output.dtype))
    plan = quick("eager")._replace(precision=precision)
    found = measure(network, plain(toy()), 8, plan)
    assert found["precision"] == precision
    # counts and exports stay in float32
    assert (torch.bfloat16 in seen, precision) in {(True, "bf16-mixed"), (False, "32-true")}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"precision 'bf16' is unknown.*bf16-mixed"):
        chosen_precision("bf16")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bench") / "run", finished_network())


def test_the_dense_twin_is_the_run_s_network_without_masks(run: Path) -> None:
    loaded = load_run(run)
    drawn = torch.get_rng_state()
    twin = dense_twin(loaded)
    assert torch.equal(drawn, torch.get_rng_state())
    assert not list(masked_layers(twin.backbone))
    own = {name: tuple(p.shape) for name, p in loaded.network.named_parameters()}
    assert own == {name: tuple(p.shape) for name, p in twin.named_parameters()}
    assert torch.equal(twin.mapping.sequence, loaded.network.mapping.sequence)
    assert twin(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 10)


def test_the_command_writes_ratios_and_medians(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(
        [
            *("bench", "--run", str(run), "--runtimes", "eager", "--devices", "cpu"),
            *("--batch_sizes", "1,4", "--memory_batch", "2", "--rounds", "5", "--warmup", "1"),
            *("--output", str(tmp_path)),
        ]
    )
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["sparsity"] == pytest.approx(0.9, abs=0.01)
    assert [each["batch_size"] for each in found["timings"]] == [1, 4]
    for each in found["timings"]:
        lower, upper = each["speedup_quartiles"]
        assert lower <= each["speedup"] <= upper
        assert each["realised"] == each["speedup"] / found["macs"]["ratio"]
        count, seconds = each["batch_size"], each["pruned_seconds"]
        assert each["pruned_images_per_second"] == count / seconds
    assert found["file_bytes"]["ratio"] == pytest.approx(1, abs=1e-3)
    (memory,) = found["training_memory_bytes"]
    assert memory["pruned"] > memory["dense"]  # masks lie beside the weights
    assert printed.index("speed-up") < printed.index("Medians")
    page = (tmp_path / "bench.md").read_text()
    assert page == markdown(found)
    assert "| eager, cpu, batch 4 |" in page
    assert not (run / "bench.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--runtimes", "tensorrt"), "allowed: eager, compiled, onnxruntime, 2:4"),
        (("--batch_sizes", "1,x"), "batch_sizes are numbers of images"),
        (("--devices", "tpu"), "accelerator 'tpu' is not available"),
        (("--rounds", "0"), "rounds must be at least 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(
    run: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], said: str
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", "--run", str(run), *options])
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_all_runtimes_of_a_cpu_answer() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plan = quick("eager", "compiled", "onnxruntime")
    found = measure(toy(), plain(toy()), 8, plan)
    assert not found["not_measured"]
    places = [(each["runtime"], each["batch_size"]) for each in found["timings"]]
    assert places == [(name, count) for name in plan.runtimes for count in (1, 2)]
