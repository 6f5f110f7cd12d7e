"""What a result says about the settings that decide with which runs it may be compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import vpns_lightning as vpns
from toy_run import KillAt, Killed, Parts
from vpns_lightning.runs.loading import load_data
from vpns_lightning.runs.record import StageRecord
from vpns_lightning.runs.settings import headline, options, outline, protocol


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("settings") / "run"
    Parts(views=("prompted", "plain")).fit(run, limit_train_batches=2)
    stored: dict[str, Any] = json.loads((run / "result.json").read_text())
    return stored


def test_a_result_names_prompt_mapping_and_pruner_with_their_options(
    result: dict[str, Any],
) -> None:
    assert result["prompt"] == {
        "name": "PadPrompt",
        "canvas_size": 16,
        "pad_size": 2,
        "clamp": "inclusive",
    }
    assert result["mapping"] == {
        "name": "FrequencyMapping",
        "slice_head": True,
        "fitted_on": "dense",
    }
    assert result["pruner"] == {
        "name": "Hydra",
        "scope": "global",
        "score_init": "scaled",
        "tie_rule": "exact",
    }


def test_a_result_states_data_and_budget_of_each_stage(result: dict[str, Any]) -> None:
    assert (result["input_size"], result["batch_size"], result["train_images"]) == (12, 16, 48)
    assert result["precision"] == "32-true"
    two = {"epochs": 2, "batches": 2}
    assert result["budget"] == {"warmup": two, "find": two, "tune": two}


def test_a_result_states_the_views_and_optimisers_of_each_stage(result: dict[str, Any]) -> None:
    both = ["prompted", "plain"]
    assert result["views"] == {"warmup": ["prompted"], "find": both, "tune": both}
    # the rates before the cosine took them down
    assert result["optimizers"]["find"] == [
        {"name": "Adam", "lr": {"backbone": 0.01, "prompt": 0.01}}
    ]
    assert result["optimizers"]["warmup"][0] == {
        "name": "SGD",
        "lr": {"backbone": 0.05, "prompt": 0.05},
    }
    assert (result["protocol"], result["headline"]) == ("released", "test_accuracy_plain")


def test_lottery_rounds_do_not_change_the_budget_that_was_asked_for(tmp_path: Path) -> None:
    told = []
    for sparsity in (0.2, 0.36):
        parts = Parts(prompt=False, sparsity=sparsity, pruner=vpns.LTH(), epochs=1)
        parts.warmup = None
        told.append(parts.fit(tmp_path / str(sparsity)))
    assert [run["stages"]["find"]["epochs"] for run in told] == [1, 2]
    assert told[0]["budget"] == told[1]["budget"]
    assert told[0]["budget"]["find"] == {"epochs": 1, "batches": 3}
    assert told[0]["prompt"] is None


def test_a_resumed_run_states_the_same_settings(tmp_path: Path) -> None:
    whole = Parts(pruner=vpns.OMP()).fit(tmp_path / "whole")
    KillAt.fired = False
    with pytest.raises(Killed):
        Parts(pruner=vpns.OMP()).fit(tmp_path / "resumed", KillAt("tune", 0, -1))
    resumed = Parts(pruner=vpns.OMP()).fit(tmp_path / "resumed")
    for key in ("prompt", "budget", "optimizers", "views", "protocol", "headline", "batch_size"):
        assert resumed[key] == whole[key], key
    assert whole["optimizers"]["find"] == []
    assert whole["budget"]["find"]["batches"] == 0


@pytest.mark.parametrize(
    ("find", "tune", "mapping_on", "expected"),
    [
        (["prompted"], ["prompted"], "dense", "paper"),
        (["plain"], ["prompted"], "dense", "paper"),
        (["prompted"], ["prompted"], "pruned", "mixed"),
        (["prompted", "plain"], ["prompted", "plain"], "pruned", "released"),
        (["prompted", "plain"], ["prompted"], "dense", "mixed"),
        (None, ["prompted"], "dense", "mixed"),
    ],
)
def test_the_protocol_follows_from_views_and_mapping(
    find: list[str] | None, tune: list[str], mapping_on: str, expected: str
) -> None:
    stages = {"find": StageRecord(views=find and tuple(find)), "tune": StageRecord(views=(*tune,))}
    assert protocol(stages, mapping_on) == expected


def test_a_run_is_judged_as_its_last_training_saw_images() -> None:
    plain = StageRecord(views=("plain",), gradient_steps=3)
    prompted = StageRecord(views=("prompted",), gradient_steps=3)
    untrained = StageRecord(views=("plain",), gradient_steps=0)
    assert headline({"find": prompted, "tune": plain}) == "test_accuracy_plain"
    assert headline({"find": plain, "tune": plain, "prompt_tuning": prompted}) == "test_accuracy"
    assert headline({"find": prompted, "tune": untrained}) == "test_accuracy"
    assert headline({"imported": StageRecord(views=("prompted", "plain"))}) == "test_accuracy_plain"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (vpns.FixPrompt(32, 10), {"canvas_size": 32, "size": 10}),
        (vpns.RandomPrompt(32, 10), {"canvas_size": 32, "size": 10}),
        (vpns.ExpansivePrompt(32, 10), {"canvas_size": 32, "image_size": 10}),
        (vpns.LowRankPrompt(32, 2), {"canvas_size": 32, "rank": 2, "std": 0.01}),
        (vpns.IterativeMapping(3), {"every": 3}),
        (vpns.Random(layout="uniform"), {"layout": "uniform", "seed": None}),
    ],
)
def test_every_part_keeps_its_arguments(part: nn.Module, expected: dict[str, Any]) -> None:
    told = options(part)
    assert told["name"] == type(part).__name__
    assert told | expected == told


def test_all_options_of_data_are_part_of_a_run_that_was_begun_in_python(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("file,label,split\na.png,x,train\nb.png,x,test\n")
    columns = ("file", "label", "split")
    table = vpns.CSVImages(str(tmp_path), columns=columns, input_size=64, limit_per_class=3)
    textures = vpns.DTD("nowhere", exif_rotation=True)
    parts = Parts()
    for data, given in (
        (table, {"table": "images.csv", "columns": list(columns), "input_size": 64}),
        (table, {"limit_per_class": 3, "root": str(tmp_path), "batch_size": 256}),
        (textures, {"root": "nowhere", "exif_rotation": True, "batch_size": 64}),
    ):
        stated = outline(parts.network, data, [parts.find, parts.tune], seed=3)["data"]
        assert given.items() <= stated["init_args"].items()
        rebuilt = load_data({"data": stated})
        assert type(rebuilt) is type(data)
        assert rebuilt.input_size == data.input_size
