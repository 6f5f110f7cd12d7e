"""A grid file becomes cells: which, how they are called, and what makes two of them different."""

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_grids import cells_of, resolve, write_grid

from vpns_lightning.base.errors import UserError
from vpns_lightning.grid.cells import expand, level, slug
from vpns_lightning.grid.file import read_grid


def test_a_grid_is_the_product_of_methods_sparsities_and_seeds(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    assert [(cell.method, cell.sparsity, cell.seed) for cell in cells] == [
        (method, sparsity, seed)
        for method in ("A", "B w. C")
        for sparsity in (0.5, 0.9)
        for seed in (7, 9)
    ]
    assert len({cell.name for cell in cells}) == 8


def test_a_folder_is_readable_and_ends_with_the_hash(tmp_path: Path) -> None:
    cell = cells_of(tmp_path)[-1]
    assert re.fullmatch(r"digits_b-w.-c_s0\.90_seed9_[0-9a-f]{8}", cell.name)
    assert cell.folder == tmp_path / "runs" / cell.name
    assert cell.arguments[-1] == f"--trainer.default_root_dir={cell.folder}"


def test_what_is_more_special_wins(tmp_path: Path) -> None:
    path = write_grid(
        tmp_path,
        methods={"B": ["b.yaml", {"find": {"epochs": 2}}]},
        overrides={"find": {"epochs": 1, "views": ["plain"]}, "tune.epochs": 4},
        axes={"network.prompt.init_args.pad_size": [8]},
        sparsities=[0.5],
        seeds=[7],
    )
    (cell,) = expand(read_grid(path), resolve, {"tune.epochs": 3, "network.prompt": None})
    assert cell.arguments[:-1] == (
        "--config=base.yaml",
        "--config=b.yaml",
        '--find.views=["plain"]',
        "--find.epochs=2",
        "--network.prompt.init_args.pad_size=8",
        "--tune.epochs=3",
        "--network.prompt=null",
        "--find.sparsity=0.5",
        "--seed_everything=7",
    )
    assert "_pad-size-8_" in cell.name


def test_an_unchanged_config_is_found_again_and_a_changed_one_is_another_cell(
    tmp_path: Path,
) -> None:
    names = [cell.name for cell in cells_of(tmp_path)]
    assert [cell.name for cell in cells_of(tmp_path)] == names
    # the machine may differ, and the rest of the grid
    moved = cells_of(tmp_path, overrides={"trainer.devices": "4"}, seeds=[7, 9, 17])
    assert set(names) < {cell.name for cell in moved}
    for changed in ({"find.epochs": 3}, {"trainer.limit_train_batches": 20}):
        others = cells_of(tmp_path, methods={"A": [changed]})
        assert not {cell.name for cell in others} & set(names)


@pytest.mark.parametrize("stage", ["prompt_tuning", "prompt"])
def test_runs_begun_before_a_key_was_there_are_found_again(tmp_path: Path, stage: str) -> None:
    first, second, *others = cells_of(tmp_path)
    for cell, rate in ((first, None), (second, 0.1)):
        config = {**cell.config, stage: cell.config["prompt_tuning"]}
        config["find"] = {**cell.config["find"], "accumulate": rate}  # not a key of this config
        folder = cell.folder.with_name(cell.name[:-8] + "0123abcd")
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (first.folder.parent / f"{first.name[:-8]}damaged0").mkdir()
    again = cells_of(tmp_path)
    assert again[0].name == f"{first.name[:-8]}0123abcd"
    assert again[0].arguments[-1] == f"--trainer.default_root_dir={again[0].folder}"
    assert again[1:] == [second, *others]
    # what a run learned with is another run, and so is its own folder once there is one
    for changed in ({"find.epochs": 3}, {"trainer.limit_train_batches": 20}):
        cell, *_ = cells_of(tmp_path, methods={"A": [changed]})
        assert not cell.folder.exists()
    first.folder.mkdir()
    assert cells_of(tmp_path)[0] == first


def test_a_config_is_parsed_once_for_all_sparsities_and_seeds(tmp_path: Path) -> None:
    parsed = []

    def counting(options: Sequence[str]) -> dict[str, Any]:
        parsed.append(options)
        return resolve(options)

    cells = expand(read_grid(write_grid(tmp_path)), counting)
    assert (len(cells), len(parsed)) == (8, 2)
    assert [cell.config["find"]["sparsity"] for cell in cells[:4]] == [0.5, 0.5, 0.9, 0.9]
    assert [cell.config["seed_everything"] for cell in cells[:4]] == [7, 9, 7, 9]


def test_data_and_backbones_are_axes_of_config_files(tmp_path: Path) -> None:
    cells = cells_of(
        tmp_path,
        base=None,
        data=["configs/dtd.yaml", "configs/cifar10.yaml"],
        backbones={"vgg": ["vgg.yaml", "wide.yaml"]},
        methods={"A": []},
        seeds=[7],
    )
    assert [cell.axes for cell in cells] == [
        {"data": data, "backbone": "vgg"} for data in ("dtd", "cifar10") for _ in range(2)
    ]
    assert cells[0].arguments[:3] == (
        "--config=configs/dtd.yaml",
        "--config=vgg.yaml",
        "--config=wide.yaml",
    )
    assert cells[0].name.startswith("dtd_vgg_a_s0.50_seed7_")


def test_a_method_may_have_sparsities_and_seeds_of_its_own(tmp_path: Path) -> None:
    methods = {"Dense": {"use": "dense.yaml", "sparsities": [0], "seeds": [1]}, "A": []}
    cells = cells_of(tmp_path, methods=methods)
    assert [(c.sparsity, c.seed) for c in cells if c.method == "Dense"] == [(0.0, 1)]
    assert len(cells) == 5


def test_cells_tune_the_masks_of_another_grid(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = write_grid(tmp_path / "source", name="fig0_source", methods={"A": []})
    methods = {"A moved": {"masks_of": {"grid": str(source), "method": "A"}}}
    cells = cells_of(tmp_path, methods=methods)
    of = {(c.sparsity, c.seed): c for c in expand(read_grid(source), resolve)}
    for cell in cells:
        needed = of[cell.sparsity, cell.seed].folder / "masks.safetensors"
        assert cell.needs == needed
        assert f"--find.pruner.init_args.path={needed}" in cell.arguments
        assert cell.config["find"]["pruner"]["init_args"]["path"] == str(needed)
    with pytest.raises(UserError, match=r"no cell of 'A' with sparsity 0\.6"):
        cells_of(tmp_path, methods=methods, sparsities=[0.6])
    wrong = {"A moved": {"masks_of": {"grid": str(source), "method": "a"}}}
    with pytest.raises(UserError, match=r"no method 'a' .did you mean 'A'"):
        cells_of(tmp_path, methods=wrong)


def test_equal_warm_ups_have_equal_keys(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, overrides={"warmup.epochs": 3})
    keys = {cell.seed: set[str | None]() for cell in cells}
    for cell in cells:
        keys[cell.seed].add(cell.warmup_key)
    # methods and sparsities share one, seeds do not
    assert [len(found) for found in keys.values()] == [1, 1]
    assert keys[7] != keys[9]
    for other in (
        {"warmup.epochs": 4},
        {"warmup.epochs": 3, "network.weights": "other.safetensors"},
        {"warmup.epochs": 3, "trainer.limit_train_batches": 20},
        {"warmup.epochs": 3, "trainer.devices": 2},
    ):
        changed = cells_of(tmp_path, overrides=other)
        assert not {cell.warmup_key for cell in changed} & (keys[7] | keys[9])
    assert {cell.warmup_key for cell in cells_of(tmp_path)} == {None}


def test_a_wrong_config_is_said_with_file_cell_and_key(tmp_path: Path) -> None:
    def refusing(options: Sequence[str]) -> dict[str, Any]:
        raise UserError("find has no option 'sparsty'")

    expected = "grid.yaml: method 'A', tune.epochs 3: find has no option 'sparsty'"
    with pytest.raises(UserError, match=re.escape(expected)):
        expand(read_grid(write_grid(tmp_path, axes={"tune.epochs": [3]})), refusing)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sparsitys": [0.5]}, "unknown key 'sparsitys' (did you mean 'sparsities'?)"),
        ({"about": None}, "the key 'about' is missing"),
        ({"base": None}, "no config file: set 'base'"),
        ({"methods": ["A"]}, "methods must be a mapping"),
        ({"methods": {"A": {"uses": []}}}, "no option 'uses' (did you mean 'use'?)"),
        ({"methods": {"A": [3]}}, "methods.A must list config files and keys, got 3"),
        ({"methods": {"A": 3}}, "methods.A must list config files and keys, got 3"),
        ({"methods": {"A": {"masks_of": "x"}}}, "masks_of must be {grid: FILE, method: NAME}"),
        ({"sparsities": 0.5}, "sparsities must be a list of values, got 0.5"),
        ({"sparsities": ["half"]}, "sparsities must be numbers"),
        ({"seeds": [7, 7]}, "seeds names a value twice"),
        ({"seeds": [7.5]}, "seeds must be whole numbers"),
        ({"axes": {"tune.epochs": 3}}, "axes.tune.epochs must be a list"),
        ({"base": 3}, "base must name config files, got 3"),
        ({"base": {"a": "b.yaml"}}, "base must name config files"),
        ({"data": {"a": 3}}, "data.a must name config files, got 3"),
        ({"data": ["a/x.yaml", "b/x.yaml"]}, "data names two files 'x'"),
        ({"sparsities": [1.5]}, "sparsities: sparsity must be a number in [0, 1), got 1.5"),
        ({"methods": {"A": {"sparsities": [1.5]}}}, "methods.A.sparsities: sparsity must be"),
        ({"seeds": [-1]}, "seeds: a seed must be from 0 to 4294967295, got -1"),
        ({"methods": {"A": {"seeds": [2**32]}}}, "methods.A.seeds: a seed must be from 0 to"),
    ],
)
def test_a_wrong_grid_file_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = write_grid(tmp_path, **changes)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        read_grid(path)
    assert str(path) in str(refused.value)


def test_a_missing_grid_file_and_one_that_is_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_grid(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is no YAML"):
        read_grid(tmp_path / "bad.yaml")


def test_a_key_given_twice_is_refused_and_no_method_is_lost(tmp_path: Path) -> None:
    path = write_grid(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("  A: []\n", "  A: []\n  A:\n  - b.yaml\n"))
    with pytest.raises(UserError, match=r"grid\.yaml is no YAML: the key 'A' is given twice"):
        read_grid(path)
    # an anchor that is used again is no second key
    anchored = (
        "  A: &a\n  - find.epochs: 2\n  C: *a\n  D:\n  - {<<: {find.epochs: 2}, find.epochs: 3}\n"
    )
    path.write_text(text.replace("  A: []\n", anchored))
    methods = {method.name: method.keys for method in read_grid(path).methods}
    assert (methods["A"], methods["C"]) == ({"find.epochs": 2}, {"find.epochs": 2})
    assert methods["D"] == {"find.epochs": 3}


@pytest.mark.parametrize("key", ["find.sparsity", "seed_everything", "trainer.default_root_dir"])
def test_keys_that_a_grid_sets_itself_are_not_silently_overruled(tmp_path: Path, key: str) -> None:
    for changes in (
        {"overrides": {key: 0.5}},
        {"axes": {key: [0.5]}},
        {"methods": {"A": [{key: 0.5}]}},
    ):
        with pytest.raises(UserError, match=rf"grid\.yaml: \w+.*: {key} is set by the grid: use '"):
            cells_of(tmp_path, **changes)
    with pytest.raises(UserError, match=f"--set: {key} is set by the grid"):
        expand(read_grid(write_grid(tmp_path)), resolve, {key: 0.5})


def test_a_run_is_asked_for_the_very_sparsity_of_its_cell(tmp_path: Path) -> None:
    sparsity = 1 - 0.8**10
    (cell,) = cells_of(tmp_path, sparsities=[sparsity], seeds=[7], methods={"A": []})
    (given,) = [a for a in cell.arguments if a.startswith("--find.sparsity=")]
    assert float(given.partition("=")[2]) == cell.config["find"]["sparsity"] == sparsity


def test_a_date_is_the_text_that_was_written(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, overrides={"network.weights": date(2024, 1, 31)})
    assert cells[0].config["network"]["weights"] == '"2024-01-31"'


def test_masks_that_cannot_be_chosen_are_refused(tmp_path: Path) -> None:
    own = {"A": {"masks_of": {"grid": str(tmp_path / "grid.yaml"), "method": "A"}}}
    with pytest.raises(UserError, match="masks_of leads back to this file"):
        cells_of(tmp_path, methods=own)
    (tmp_path / "source").mkdir()
    axes = {"tune.epochs": [1, 2], "find.epochs": [1, 2]}
    source = write_grid(tmp_path / "source", methods={"A": []}, axes=axes)
    moved = {"A moved": {"masks_of": {"grid": str(source), "method": "A"}}}
    with pytest.raises(UserError, match=r"more than one cell of 'A' with sparsity 0\.5 and seed 7"):
        cells_of(tmp_path, methods=moved)

    def refusing(options: Sequence[str]) -> dict[str, Any]:
        if any(option.startswith("--find.pruner.init_args.path=") for option in options):
            raise UserError("find.pruner: OMP has no option 'path'")
        return resolve(options)

    write_grid(tmp_path / "source", methods={"A": []})
    with pytest.raises(
        UserError, match=r"method 'A moved': find\.pruner: OMP has no option 'path'"
    ):
        expand(read_grid(write_grid(tmp_path, methods=moved)), refusing)


def test_labels_become_plain_folder_names() -> None:
    assert slug("VPNs w. LTH") == "vpns-w.-lth"
    assert slug("../up") == "up"
    assert slug("  ") == "x"
    assert [level(value) for value in (0, 0.5, 0.95, 0.995)] == [
        "s0.00",
        "s0.50",
        "s0.95",
        "s0.995",
    ]
