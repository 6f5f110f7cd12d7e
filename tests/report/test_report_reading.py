"""Results are read as they are, whatever version wrote them; broken files are named."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from toy_results import PAD, as_run, grid, result, write

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.comparability import mixture, remarks
from vpns_lightning.report.runs import Run, read_results, rows, to_csv

NEW_KEYS = (
    *("prompt", "mapping", "pruner", "input_size", "batch_size", "precision", "train_images"),
    *("protocol", "budget", "optimizers", "headline"),
)


def run_of(**options: Any) -> Run:
    path = Path("runs") / str(options.get("seed", 7)) / "result.json"
    return as_run(result(**options), path)


def old(**options: Any) -> Run:
    """A run as the first version wrote it."""
    facts = {k: v for k, v in result(**options).items() if k not in NEW_KEYS}
    facts["views"] = {"find": ["prompted"]}
    return as_run(facts, Path("old/result.json"))


def test_results_are_found_at_any_depth_and_others_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", *grid(seeds=(7,)))
    bad = {
        "cut": '{"schema": 1, "meth',
        "list": "[]",
        "foreign": '{"accuracy": 1}',
        "newer": json.dumps(result() | {"schema": 99}),
        "nan": json.dumps(result(accuracy=float("nan"))),
        "text": json.dumps(result() | {"seed": "7"}),
        "stages": json.dumps(result() | {"stages": ["find"]}),
        "stage": json.dumps(result() | {"stages": {"find": None}}),
        "grid": json.dumps(result() | {"grid": "fig4"}),
        "sparsity": json.dumps(result() | {"sparsity_requested": 1.5}),
        "accuracy": json.dumps(result() | {"test_accuracy": None}),
        "headline": json.dumps(result() | {"headline": "best_accuracy"}),
        "schema": json.dumps(result() | {"schema": "2"}),
        "seconds": json.dumps(result() | {"seconds": float("inf")}),
        "dense": json.dumps(result() | {"dense_accuracy": float("nan")}),
        "measured": json.dumps(result() | {"sparsity": float("nan")}),
        "asked": json.dumps(result() | {"sparsity_requested": None}),
        "no stages": json.dumps(result() | {"stages": None}),
        "layers": json.dumps(result() | {"sparsity_per_layer": {"fc": None}}),
        "axes": json.dumps(result() | {"grid": {"name": "fig4", "axes": ["data"]}}),
        "data": json.dumps(result() | {"dataset": []}),
        "judged": json.dumps(result() | {"headline": ["test_accuracy"]}),
        "classes": json.dumps(result() | {"classes": [10]}),
        "deep": "[" * 100_000,
        "binary": None,
    }
    for name, text in bad.items():
        (tmp_path / name).mkdir()
        file = tmp_path / name / "result.json"
        file.write_bytes(b"\xff\xfe\x00") if text is None else file.write_text(text)
    runs, broken = read_results([tmp_path])
    assert len(runs) == 12
    reasons = {b.path.parent.name: b.reason for b in broken}
    assert reasons.keys() == bad.keys()
    assert "method" in reasons["foreign"]
    assert "newer" in reasons["newer"]


def test_a_folder_that_is_absent_or_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_results([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"no result\.json"):
        read_results([tmp_path])


def test_the_same_folder_given_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path, result())
    assert len(read_results([tmp_path, tmp_path])[0]) == 1


def test_a_file_reached_by_several_ways_counts_once_and_links_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "scratch", *grid(seeds=(7,)))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fig4").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "loop").symlink_to(tmp_path / "scratch")
    monkeypatch.chdir(tmp_path)
    runs, broken = read_results([Path("runs"), tmp_path / "runs", Path("scratch")])
    assert (len(runs), broken) == (12, [])
    assert {run.path.parts[:2] for run in runs} == {("runs", "fig4")}


def test_what_an_older_result_does_not_say_is_unknown() -> None:
    (row,) = rows([old()])
    assert {row[key] for key in NEW_KEYS} == {"unknown"}
    (row,) = rows([run_of(method="HYDRA")])
    assert row["prompt"] == "none"


def test_the_csv_has_one_row_a_run_and_readable_settings() -> None:
    text = to_csv(rows([run_of(), run_of(seed=9)]))
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["seed"], second["seed"]) == ("7", "9")
    assert first["prompt"] == "PadPrompt(canvas_size=64, pad_size=4, clamp=inclusive)"
    assert first["budget"] == "(find=(epochs=30, batches=196), tune=(epochs=30, batches=196))"
    assert float(first["test_accuracy"]) == run_of().record.test_accuracy


def test_a_run_is_judged_by_the_accuracy_it_names() -> None:
    run = run_of(accuracy=0.5)
    assert run.accuracy == 50
    plain = run_of(accuracy=0.5, headline="test_accuracy_plain")
    assert plain.accuracy == pytest.approx(49)


@pytest.mark.parametrize(
    ("find", "tune", "prompt", "label"),
    [
        (["prompted"], ["prompted"], PAD, "VPNs"),
        (["prompted"], ["plain"], PAD, "VPNs, prompt in mask finding only"),
        (["plain"], ["prompted"], PAD, "VPNs, prompt in tuning only"),
        (["plain"], ["prompted"], None, "VPNs"),
    ],
)
def test_the_label_says_where_the_prompt_is_missing(
    find: list[str], tune: list[str], prompt: dict[str, Any] | None, label: str
) -> None:
    assert run_of(views={"find": find, "tune": tune}, prompt=prompt).label == label


def test_image_folders_are_told_apart_by_grid_folder_or_command() -> None:
    folder = {"dataset": "ImageFolder"}
    axes = {"name": "mine", "axes": {"data": "birds"}}
    assert run_of(**folder, command="vpns fit").dataset == "ImageFolder"
    assert run_of(**folder, data_folder="cats").dataset == "ImageFolder cats"
    assert run_of(**folder, command="vpns fit --data.root /a/dogs").dataset == "ImageFolder dogs"
    both = as_run(result(**folder, data_folder="cats") | {"grid": axes})
    assert both.dataset == "ImageFolder birds"
    assert run_of(data_folder="data").dataset == "CIFAR100"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("weights", "IMAGENET1K_V2", "weights is IMAGENET1K_V1"),
        ("backbone", "resnet50", "backbone is resnet18"),
        ("input_size", 32, "input_size is 64"),
        ("protocol", "released", "protocol is paper"),
        ("prompt", PAD | {"pad_size": 8}, "prompt.pad_size is 4"),
        ("prompt", None, "prompt is PadPrompt"),
        ("batch_size", 64, "batch_size is 256"),
        ("train_images", 5_000, "train_images is 50000"),
        # a result that does not say had no limit
        ("limit_per_class", 200, "limit_per_class is none"),
        ("mapping", {"name": "IdentityMapping"}, "mapping.name is FrequencyMapping"),
        ("pruner", {"name": "VPNs", "scope": "layer"}, "pruner.scope is none"),
        ("views", {"find": ["plain"], "tune": ["prompted"]}, "views.find is prompted"),
        ("budget", {"tune": {"epochs": 3, "batches": 196}}, "budget.tune is (epochs=30"),
        ("optimizers", {"tune": [{"name": "Adam", "lr": {}}]}, "optimizers.tune is SGD"),
    ],
)
def test_runs_that_differ_in_more_than_sparsity_and_seed_are_no_curve(
    key: str, value: object, shown: str
) -> None:
    runs = [run_of(), run_of(seed=9), run_of(seed=17, **{key: value})]
    assert mixture(runs[:2]) is None
    reason = mixture(runs)
    assert reason is not None
    assert shown in reason
    assert "runs/7 and" in reason
    assert "runs/17" in reason


def test_sparsity_seed_and_the_file_of_stored_masks_may_differ_along_a_curve() -> None:
    stored = [{"name": "Stored", "path": f"runs/{seed}/masks.safetensors"} for seed in (7, 9)]
    runs = [
        run_of(sparsity=s, seed=seed, pruner=pruner)
        for s, seed, pruner in zip((0.5, 0.9), (7, 9), stored, strict=True)
    ]
    assert mixture(runs) is None


def test_lottery_rounds_may_grow_along_a_curve() -> None:
    runs = [run_of(method="LTH", sparsity=s) for s in (0.5, 0.8, 0.9)]
    assert len({run.record.gradient_steps for run in runs}) == 3
    assert mixture(runs) is None


def test_older_results_are_not_held_against_newer_ones_but_it_is_said() -> None:
    runs = [run_of(), old(sparsity=0.5)]
    assert mixture(runs) is None
    (note,) = remarks({"VPNs": runs})
    assert "prompt" in note
    assert "unknown" in note


def test_older_results_are_still_told_apart_by_their_steps_of_tuning() -> None:
    stages = result()["stages"]
    stages["tune"]["gradient_steps"] = 99
    longer = old(stages=stages)
    reason = mixture([old(), longer])
    assert reason is not None
    assert reason.startswith("tuning steps is 5880 in old and 99")


def test_methods_that_were_given_other_weights_are_remarked_on() -> None:
    (note,) = remarks({"VPNs": [run_of()], "OMP": [run_of(method="OMP", weights="other")]})
    assert note == "VPNs and OMP differ in weights: IMAGENET1K_V1, other"
