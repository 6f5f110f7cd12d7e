"""A run from its first epoch to its result, its folder, and running it again."""

import json
import signal
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from safetensors import safe_open
from safetensors.torch import load_file
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

import vpns_lightning as vpns
from toy_run import KillAt, KillAtEnd, Killed, Parts
from vpns_lightning.grid.cells import config_hash
from vpns_lightning.runs.folder import RunFolder, config_differences
from vpns_lightning.runs.handoff import read_about
from vpns_lightning.runs.metrics import read_metrics
from vpns_lightning.runs.prompt_files import read_prompts
from vpns_lightning.training import pipeline
from vpns_lightning.training.callbacks.prompts import keep_prompt

RUN_FILES = ("config.yaml", "handoff.safetensors", "masks.safetensors", "metrics.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Parts]:
    folder = tmp_path_factory.mktemp("run")
    parts = Parts()
    return folder, parts.fit(folder), parts


def test_a_run_leaves_its_folder_complete(finished: tuple[Path, dict[str, Any], Parts]) -> None:
    folder, result, _ = finished
    for name in (*RUN_FILES, "summary.png", "result.json", "find/last.ckpt", "tune/last.ckpt"):
        assert (folder / name).is_file(), name
    assert json.loads((folder / "result.json").read_text()) == result
    assert not list(folder.rglob("*.tmp"))


def test_the_result_states_method_sparsity_and_cost(
    finished: tuple[Path, dict[str, Any], Parts],
) -> None:
    _, result, parts = finished
    total = sum(w.numel() for w in parts.network.prunable().values())
    assert result["method"] == "VPNs"
    assert result["weights_kept"] == total - int(0.8 * total + 1e-6)
    assert result["sparsity"] == pytest.approx(0.8, abs=1 / total)
    assert result["epochs"] == 6
    assert result["gradient_steps"] == result["forward_backward_passes"] == 6 * 3
    assert result["test_images"] == 24
    assert result["dense_accuracy"] is not None
    assert result["parameters_kept"] == result["parameters"] - (total - result["weights_kept"])
    assert result["effective_macs"] < result["macs"]


def test_masks_are_a_file_of_bools_with_prompt_and_mapping(
    finished: tuple[Path, dict[str, Any], Parts],
) -> None:
    folder, _, parts = finished
    stored = load_file(folder / "masks.safetensors")
    for name, layer in parts.network.backbone.named_modules():
        if hasattr(layer, "mask"):
            assert torch.equal(stored[f"mask.{name}"], layer.mask)
    assert torch.equal(stored["prompt.delta"], parts.network.prompt.delta)
    assert torch.equal(stored["mapping.sequence"], parts.network.mapping.sequence)
    with safe_open(folder / "masks.safetensors", "pt") as file:
        assert json.loads(file.metadata()["vpns"])["backbone"] == "ToyNet"


def test_the_prompt_is_kept_after_epochs_of_the_stages_that_learn_it(
    finished: tuple[Path, dict[str, Any], Parts],
) -> None:
    folder, _, parts = finished
    prompts = read_prompts(folder / "prompts.safetensors")
    moments = [(stage, epoch) for stage in ("warmup", "find", "tune") for epoch in (1, 2)]
    assert prompts.keys() == set(moments)
    pictures = [torch.from_numpy(prompts[moment]) for moment in moments]
    assert torch.equal(pictures[-1], parts.network.prompt.picture().half())
    assert all(not torch.equal(*pair) for pair in pairwise(pictures))


def test_no_prompt_is_kept_of_a_stage_that_does_not_learn_it(tmp_path: Path) -> None:
    for parts in (Parts(views=("plain",)), Parts(prompt=False)):
        keep_prompt(tmp_path / "prompts.safetensors", parts.find, 1)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_prompts_costs_its_pictures_only(tmp_path: Path) -> None:
    path, stage = tmp_path / "prompts.safetensors", Parts().find
    for epochs in (1, 2):
        keep_prompt(path, stage, epochs)
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(vpns.UserError, match="another hash"):
        read_prompts(path)
    with pytest.warns(UserWarning, match="begins anew"):
        keep_prompt(path, stage, 3)
    assert list(read_prompts(path)) == [("find", 3)]


def test_metrics_are_logged_for_every_epoch_of_every_stage(
    finished: tuple[Path, dict[str, Any], Parts],
) -> None:
    rows = read_metrics(finished[0] / "metrics.csv")
    for stage, metric in (
        ("warmup", "loss"),
        ("find", "loss"),
        ("find", "mask_churn"),
        ("find", "sparsity"),
        ("find", "sparsity/conv1"),
        ("find", "prompt_norm"),
        ("tune", "acc"),
        ("tune", "acc_plain"),
        ("tune", "lr"),
    ):
        epochs = [r["epoch"] for r in rows if (r["stage"], r["metric"]) == (stage, metric)]
        assert epochs == [0, 1], (stage, metric)


def test_tuning_leaves_the_mask_and_the_pruned_weights_alone(
    finished: tuple[Path, dict[str, Any], Parts],
) -> None:
    folder, _, parts = finished
    found = torch.load(folder / "find" / "last.ckpt", weights_only=True)["state_dict"]
    for name, mask in parts.network.named_buffers():
        if name.endswith(".mask"):
            assert torch.equal(found[f"network.{name}"], mask)
            weight = parts.network.get_parameter(name.removesuffix("mask") + "weight")
            assert not weight[~mask].any()


def test_running_a_finished_run_again_changes_nothing(
    finished: tuple[Path, dict[str, Any], Parts], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result, _ = finished
    before = (folder / "result.json").stat().st_mtime_ns
    assert Parts().fit(folder) == result
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert "is finished" in capsys.readouterr().out


def test_another_config_in_an_old_folder_is_refused_with_the_keys(
    finished: tuple[Path, dict[str, Any], Parts],
) -> None:
    with pytest.raises(vpns.UserError, match=r"find\.sparsity: 0\.8 there, 0\.5 now"):
        Parts(sparsity=0.5).fit(finished[0])


def test_a_changed_machine_is_no_other_config() -> None:
    old = {"find": {"sparsity": 0.9}, "trainer": {"devices": 1}}
    assert config_differences(old, old | {"trainer": {"devices": 2}}) == []
    assert len(config_differences(old, old | {"find": {"sparsity": 0.8}})) == 1


def test_a_config_that_differs_in_everything_is_refused_in_a_line_one_can_read(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path)
    run.keep_config({f"key{i}": 1 for i in range(20)})
    with pytest.raises(vpns.UserError, match=r"key0: 1 there, 2 now; .*; and 10 more\. Choose"):
        run.keep_config({f"key{i}": 2 for i in range(20)})


PLACES = [("warmup", 0, 1), ("warmup", 1, 0), ("find", 0, 0), ("find", 1, 1), ("find", 1, -1)]


@pytest.mark.parametrize("place", [*PLACES, ("tune", 0, 2), ("tune", 1, 0)], ids=str)
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    finished: tuple[Path, dict[str, Any], Parts], tmp_path: Path, place: tuple[str, int, int]
) -> None:
    KillAt.fired = False
    with pytest.raises(Killed):
        Parts().fit(tmp_path, KillAt(*place))
    resumed = Parts()
    result = resumed.fit(tmp_path)
    assert_same(resumed, finished[2])
    assert result["gradient_steps"] == finished[1]["gradient_steps"]
    assert_same_metrics(tmp_path, finished[0])
    assert_same_prompts(tmp_path, finished[0])


@pytest.mark.parametrize("stage", ["warmup", "find", "tune"])
def test_killed_just_before_a_hand_off_it_is_made_up_for(
    finished: tuple[Path, dict[str, Any], Parts], tmp_path: Path, stage: str
) -> None:
    with pytest.raises(Killed):
        Parts().fit(tmp_path, KillAtEnd(stage))
    resumed = Parts()
    result = resumed.fit(tmp_path)
    assert_same(resumed, finished[2])
    for name, costs in finished[1]["stages"].items():
        steps = ("epochs", "gradient_steps", "forward_backward_passes", "accuracy")
        assert all(result["stages"][name][key] == costs[key] for key in steps), name
    assert_same_prompts(tmp_path, finished[0])


def assert_same_prompts(one: Path, other: Path) -> None:
    first, second = (folder / "prompts.safetensors" for folder in (one, other))
    assert first.read_bytes() == second.read_bytes()


def assert_same(one: Parts, other: Parts) -> None:
    expected = other.network.state_dict()
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, expected[name]), name


def assert_same_metrics(one: Path, other: Path) -> None:
    def losses(folder: Path) -> list[tuple[Any, ...]]:
        rows = read_metrics(folder / "metrics.csv")
        kept = [r for r in rows if r["metric"] in {"acc", "sparsity", "mask_churn", "lr"}]
        return sorted((r["stage"], r["epoch"], r["metric"], r["value"]) for r in kept)

    assert losses(one) == losses(other)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_views_resume_exactly_too(tmp_path: Path, workers: int) -> None:
    def parts() -> Parts:
        made = Parts(views=("prompted", "plain"), epochs=1)
        made.data.num_workers = workers
        return made

    whole, KillAt.fired = parts(), False
    result = whole.fit(tmp_path / "whole")
    assert result["stages"]["find"]["gradient_steps"] == 6
    with pytest.raises(Killed):
        parts().fit(tmp_path / "cut", KillAt("tune", 0, 1))
    resumed = parts()
    resumed.fit(tmp_path / "cut")
    assert_same(resumed, whole)


def test_a_dense_run_finds_nothing_and_keeps_everything(tmp_path: Path) -> None:
    result = Parts(pruner=vpns.Dense(), sparsity=0.0).fit(tmp_path)
    assert result["method"] == "VPNs w. Dense"
    assert result["sparsity"] == 0
    assert result["stages"]["find"]["gradient_steps"] == 0


def test_hydra_without_prompt_is_called_hydra(tmp_path: Path) -> None:
    result = Parts(prompt=False, epochs=1).fit(tmp_path)
    assert result["method"] == "HYDRA"
    assert result["test_accuracy"] == result["test_accuracy_plain"]


def test_a_hand_off_of_another_network_is_refused(tmp_path: Path) -> None:
    KillAt.fired = False
    with pytest.raises(Killed):
        Parts(epochs=1).fit(tmp_path, KillAt("find", 0, 0))
    (tmp_path / "config.yaml").unlink()
    other = Parts(epochs=1)
    other.network.backbone_name = "AnotherNet"
    with pytest.raises(vpns.UserError, match="backbone 'ToyNet', here 'AnotherNet'"):
        other.fit(tmp_path)


@pytest.mark.parametrize("kind", ["foreign", "cut off"])
def test_a_checkpoint_that_cannot_be_read_is_named_and_never_executed(
    kind: str, tmp_path: Path
) -> None:
    KillAt.fired = False
    with pytest.raises(Killed):
        Parts(epochs=1).fit(tmp_path, KillAt("tune", 0, 1))
    path = tmp_path / "tune" / "last.ckpt"
    path.parent.mkdir(exist_ok=True)
    if kind == "foreign":
        torch.save({"state_dict": Path("x")}, path)
    else:
        path.write_bytes((tmp_path / "find" / "last.ckpt").read_bytes()[:5000])
    with pytest.raises(vpns.UserError, match=r"tune/last\.ckpt is damaged or .*: delete it") as e:
        Parts(epochs=1).fit(tmp_path)
    assert "weights_only" not in str(e.value)


def test_a_truncated_hand_off_is_named(tmp_path: Path) -> None:
    (tmp_path / "handoff.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(vpns.UserError, match=r"handoff\.safetensors is damaged"):
        read_about(tmp_path / "handoff.safetensors")


def test_a_nan_loss_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    parts = Parts(epochs=2)
    loss, calls = parts.find.loss, []

    def poisoned(view: str, batch: Any) -> torch.Tensor:
        calls.append(view)
        if len(calls) == 5:  # epoch 1, batch 1
            batch = (batch[0] * float("nan"), batch[1])
        return loss(view, batch)

    parts.find.loss = poisoned
    with pytest.raises(vpns.UserError, match="NaN or infinite at gradient step 4"):
        parts.fit(tmp_path)
    kept = torch.load(tmp_path / "find" / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0
    assert all(
        torch.isfinite(v).all() for v in kept["state_dict"].values() if v.is_floating_point()
    )


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked(), pytest.raises(vpns.UserError, match="another process is running"):
        Parts().fit(tmp_path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"precision": "bf16-true"}, "use bf16-mixed"),
        ({"precision": "64-true"}, "use 32-true"),
        ({"strategy": "ddp_spawn"}, "'ddp_spawn' is not allowed, .*: use ddp; allowed: auto, ddp"),
        ({"strategy": "ddp_fork"}, "'ddp_fork' is not allowed"),
        ({"strategy": "ddp_notebook_find_unused_parameters_true"}, "is not allowed"),
        ({"strategy": "fsdp", "devices": 1}, "'fsdp' is not allowed"),
        ({"strategy": "deepspeed_stage_2"}, "'deepspeed_stage_2' is not allowed"),
        ({"strategy": "nonsense"}, "'nonsense' is not allowed"),
        ({"strategy": FSDPStrategy()}, "'FSDPStrategy' is not allowed"),
        ({"strategy": DDPStrategy(start_method="fork"), "devices": 2}, "'DDPStrategy' started by"),
        ({"gradient_clip_val": 1.0}, "are not clipped"),
        ({"sync_batchnorm": True, "accelerator": "cpu"}, "sync_batchnorm needs GPUs"),
    ],
)
def test_trainer_options_that_cannot_work_are_refused(
    tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(vpns.UserError, match=complaint):
        Parts().fit(tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"devices": 0}, r"^trainer\.devices 0 is no number of devices"),
        ({"limit_train_batches": 0.01}, r"^trainer: .*Please increase the `limit_train_batches`"),
    ],
)
def test_what_lightning_does_not_take_is_a_fault_of_the_options(
    tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(vpns.UserError, match=complaint):
        Parts().fit(tmp_path, **options)


def test_no_batch_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vpns.UserError, match=r"limit_train_batches 0 leaves no batch"):
        Parts().fit(tmp_path, limit_train_batches=0)
    result = Parts(epochs=0, pruner=vpns.OMP()).fit(tmp_path, limit_train_batches=0)
    assert result["gradient_steps"] == 0


@pytest.mark.parametrize(
    ("optimizer", "schedule", "message"),
    [
        (torch.optim.LBFGS, None, r"^tune\.optimizer: LBFGS doesn't support"),
        (partial(torch.optim.SGD, lr=-1.0), None, r"^tune\.optimizer: Invalid learning rate"),
        (None, ReduceLROnPlateau, r"^tune\.lr_scheduler: ReduceLROnPlateau waits for a metric"),
        (None, partial(OneCycleLR, max_lr=0.1), r"^tune\.lr_scheduler: You must define"),
        # a schedule that ends before the epochs do
        (None, partial(OneCycleLR, max_lr=0.1, total_steps=1), r"^tune\.lr_scheduler: Tried to"),
    ],
)
def test_what_cannot_train_the_last_stage_is_refused_before_the_first(
    tmp_path: Path, optimizer: Any, schedule: Any, message: str
) -> None:
    parts = Parts()
    parts.tune = vpns.SubnetworkTuning(
        parts.network, epochs=2, optimizer=optimizer, lr_scheduler=schedule
    )
    with pytest.raises(vpns.UserError, match=message):
        parts.fit(tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_larger_than_the_canvas_are_refused(tmp_path: Path) -> None:
    parts = Parts()
    parts.data.input_size = 20
    with pytest.raises(vpns.UserError, match="canvas of 16 px"):
        parts.fit(tmp_path)


def test_data_of_another_class_count_are_refused(tmp_path: Path) -> None:
    parts = Parts()
    parts.data.num_classes = 5
    with pytest.raises(vpns.UserError, match="4 classes, Stripes has 5"):
        parts.fit(tmp_path)


def test_finding_of_no_epochs_prunes_by_the_first_scores(tmp_path: Path) -> None:
    parts = Parts(epochs=1)
    parts.find.epochs = 0
    result = parts.fit(tmp_path)
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert result["stages"]["find"]["gradient_steps"] == 0
    assert all(
        layer.scores is None
        for layer in parts.network.backbone.modules()
        if hasattr(layer, "scores")
    )


def test_a_dense_run_without_warm_up_fits_its_mapping(tmp_path: Path) -> None:
    parts = Parts(pruner=vpns.Dense(), sparsity=0.0, epochs=1)
    parts.warmup = None
    result = parts.fit(tmp_path)
    assert bool(parts.network.mapping.fitted)
    assert result["gradient_steps"] == 3


def test_a_stage_that_a_callback_stopped_says_what_ran(tmp_path: Path) -> None:
    stopping = EarlyStopping("tune/acc", mode="max", stopping_threshold=-1.0, strict=False)
    result = Parts(epochs=2).fit(tmp_path, stopping)
    tune, find = result["stages"]["tune"], result["stages"]["find"]
    assert (tune["epochs"], tune["stopped"], tune["gradient_steps"]) == (1, True, 3)
    assert (find["epochs"], "stopped" in find) == (2, False)
    assert result["epochs"] == 5
    assert [part["name"] for part in result["parts"]["callbacks"]] == ["EarlyStopping"]


def test_a_stage_that_was_stopped_and_killed_trains_no_further(tmp_path: Path) -> None:
    stopping = EarlyStopping("tune/acc", mode="max", stopping_threshold=-1.0, strict=False)
    with pytest.raises(Killed):
        Parts().fit(tmp_path, stopping, KillAtEnd("tune"))
    tune = Parts().fit(tmp_path, stopping)["stages"]["tune"]
    assert (tune["epochs"], tune["stopped"], tune["gradient_steps"]) == (1, True, 3)


class Ask(pl.Callback):
    """Send this process a signal at the second batch of an epoch of tuning."""

    def __init__(self, signum: int) -> None:
        self.signum = signum

    def on_train_batch_end(
        self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (stage.name, trainer.current_epoch, batch_idx) == ("tune", 1, 1):
            signal.raise_signal(self.signum)


@pytest.mark.parametrize(
    ("signum", "left"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_a_signal_is_answered_after_the_batch_at_hand_and_its_epoch_logged_whole(
    finished: tuple[Path, dict[str, Any], Parts],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    signum: int,
    left: type[BaseException],
) -> None:
    with pytest.raises(left):
        Parts().fit(tmp_path, Ask(signum))
    assert "stopped after batch 2 of epoch 2, saved in" in capsys.readouterr().out
    resumed = Parts()
    resumed.fit(tmp_path)
    assert_same(resumed, finished[2])
    for one, other in zip(
        *(read_metrics(path / "metrics.csv") for path in (tmp_path, finished[0])), strict=True
    ):
        assert one == other


EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}
BAR = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
HALF = {"class_path": "lightning.pytorch.plugins.HalfPrecision"}


@pytest.mark.parametrize(
    "trainer", [{"callbacks": [BAR, EMA]}, {"callbacks": EMA}, {"plugins": HALF}]
)
def test_a_callback_that_may_change_the_method_makes_another_run(trainer: dict[str, Any]) -> None:
    plain = {"trainer": {"callbacks": None, "plugins": None}, "find": {"epochs": 1}}
    changed = {**plain, "trainer": trainer}
    (key,) = trainer
    assert [line.partition(":")[0] for line in config_differences(plain, changed)] == [
        f"trainer.{key}"
    ]
    assert config_hash({**plain}) != config_hash(changed)


def test_a_callback_that_only_looks_makes_no_other_run() -> None:
    plain = {"trainer": {"callbacks": None}, "find": {"epochs": 1}}
    assert not config_differences(plain, {**plain, "trainer": {"callbacks": [BAR]}})


def test_a_kill_before_the_result_loses_no_line_of_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "write_record", kill)
        with pytest.raises(Killed):
            Parts().fit(tmp_path)
    Parts().fit(tmp_path)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    last = [line.split(",")[3] for line in lines if line.startswith("result,")]
    assert last == list(pipeline.LOGGED_RESULTS)
