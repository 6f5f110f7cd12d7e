"""A limit of each class, the part held out, and both in a whole run."""

import csv
import hashlib
import random
import shutil
from pathlib import Path

import pytest
import torch

import toy_data
import toy_run
from vpns_lightning import data
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import CSVImages, Digits, ImageData, ImageFolder, Split, TinyImageNet
from vpns_lightning.data.subsets import limited
from vpns_lightning.runs.evaluation import evaluate
from vpns_lightning.runs.folder import config_differences, method_leaves


def split_of(names: list[str], labels: list[int] | None = None, root: str = "/a") -> Split:
    labels = labels or [0] * len(names)
    return Split(
        labels, ["cat", "dog"], [Path(root, str(i), n) for i, n in zip(labels, names, strict=True)]
    )


def kept(split: Split, per_class: int) -> set[str]:
    return {file.name for file in limited(split, per_class, "X").files}


def test_the_images_with_the_smallest_hashes_of_their_names_are_taken() -> None:
    names = [f"{letter}.png" for letter in "abcdefghij"]
    ranked = sorted(names, key=lambda n: hashlib.blake2b(n.encode(), digest_size=8).digest())
    for count in (1, 4, 10):
        assert kept(split_of(names), count) == set(ranked[:count])


def test_neither_order_nor_folder_nor_spelling_of_accents_changes_the_images() -> None:
    names = [f"imagé {index}.png" for index in range(50)]  # e with an accent as one sign
    other = [name.replace("é", "é") for name in names]  # and as two
    random.Random(1).shuffle(other)
    first, second = kept(split_of(names), 7), kept(split_of(other, root="/elsewhere"), 7)
    assert {name.replace("é", "é") for name in first} == second


def test_a_smaller_limit_is_a_part_of_a_larger_one_and_the_order_stays() -> None:
    split = split_of([f"{i}.png" for i in range(40)], [i % 2 for i in range(40)])
    fewer, more = limited(split, 3, "X"), limited(split, 9, "X")
    assert set(fewer.files) < set(more.files)
    assert [more.labels.count(label) for label in (0, 1)] == [9, 9]
    places = [split.files.index(file) for file in more.files]
    assert places == sorted(places)
    assert [split.labels[place] for place in places] == list(more.labels)


def test_without_files_pixels_decide_not_their_place() -> None:
    pixels = toy_run.Stripes().split("train").pixels
    assert pixels is not None
    order = torch.randperm(len(pixels)).numpy()
    first = limited(Split([0] * len(pixels), ["a"], pixels=pixels), 5, "X").pixels
    second = limited(Split([0] * len(pixels), ["a"], pixels=pixels[order]), 5, "X").pixels
    assert first is not None
    assert second is not None
    assert {image.tobytes() for image in first} == {image.tobytes() for image in second}


def test_a_class_with_fewer_images_keeps_them_all_and_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    split = limited(split_of(["0", "1", "2", "3"], [0, 0, 0, 1]), 2, "Pets, train split")
    assert list(split.labels) == [0, 0, 1]
    assert capsys.readouterr().out == (
        "Pets, train split: 1 of 2 classes have fewer than 2 images, the fewest 'dog' with 1; "
        "all of theirs are used\n"
    )


def test_the_same_images_of_tiny_imagenet_with_and_without_words(tmp_path: Path) -> None:
    toy_data.make_layout("TinyImageNet", tmp_path, images_per_class=3)
    first = TinyImageNet(str(tmp_path), limit_per_class=1).split("train")
    (tmp_path / "tiny-imagenet-200" / "words.txt").unlink()
    second = TinyImageNet(str(tmp_path), limit_per_class=1).split("train")
    assert first.class_names != second.class_names
    assert first.files == second.files
    assert len(first) == 200


def test_each_split_has_a_limit_of_its_own(tmp_path: Path) -> None:
    root = str(toy_data.make_layout("ImageFolder", tmp_path, images_per_class=6))
    for options, sizes in (
        ({"limit_per_class": 2}, (6, 18)),
        ({"limit_test_per_class": 4}, (18, 12)),
        ({"limit_per_class": 2, "limit_test_per_class": 4}, (6, 12)),
    ):
        data = ImageFolder(root, input_size=16, **options)  # type: ignore[arg-type]
        assert (len(data.dataset("train")), len(data.dataset("test"))) == sizes


@pytest.mark.parametrize("cache", ["source", "resized", "none"])
def test_only_the_images_in_use_are_decoded(tmp_path: Path, cache: str) -> None:
    root = toy_data.make_layout("ImageFolder", tmp_path, images_per_class=6, size=(20, 20))
    options = {"input_size": 16, "cache": cache, "num_workers": 0}
    whole = ImageFolder(str(root), **options)
    names = [file.name for file in whole.split("train").files]
    data = ImageFolder(str(root), limit_per_class=2, **options)
    used = {file.name for file in data.split("train").files}
    for file in (root / "train").rglob("*.png"):
        if file.name not in used:
            file.write_bytes(b"damaged")
    images, labels, rows = data.dataset("train").__getitems__([0, 3, 5])
    assert len(data.dataset("train")) == 6
    assert labels.tolist() == [0, 1, 2]
    shutil.rmtree(root)
    toy_data.make_layout("ImageFolder", root, images_per_class=6, size=(20, 20))
    again = [names.index(data.split("train").files[int(row)].name) for row in rows]
    assert torch.equal(whole.dataset("train").__getitems__(again)[0], images)


def test_the_part_held_out_comes_from_the_images_in_use() -> None:
    data = Digits(limit_per_class=20, validation=0.25)
    train, held_out = data.dataset("train"), data.dataset("validation")
    assert torch.bincount(train.labels[train.rows]).tolist() == [15] * 10
    assert torch.bincount(held_out.labels[held_out.rows]).tolist() == [5] * 10
    assert set(train.rows.tolist()).isdisjoint(held_out.rows.tolist())
    assert len(data.dataset("test")) == 360


def test_the_limit_is_the_same_for_every_seed() -> None:
    parts = [Digits(limit_per_class=5, seed=seed).split("train").pixels for seed in (7, 8)]
    assert (parts[0] == parts[1]).all()  # type: ignore[union-attr]  # Digits have pixels


@pytest.mark.parametrize("option", ["limit_per_class", "limit_test_per_class"])
def test_a_limit_below_one_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"{option} must be >= 1, got 0; null uses all"):
        Digits(**{option: 0})  # type: ignore[arg-type]


def test_check_looks_at_the_whole_data_set(tmp_path: Path) -> None:
    toy_data.make_layout("ImageFolder", tmp_path, images_per_class=6)
    report = ImageFolder(str(tmp_path), limit_per_class=1, limit_test_per_class=1).check()
    assert report.images == {"train": 18, "test": 18}


def logged(run: Path) -> dict[tuple[str, str], list[float]]:
    """Return the values of every metric by stage and name, in order."""
    values: dict[tuple[str, str], list[float]] = {}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values.setdefault((row["stage"], row["metric"]), []).append(float(row["value"]))
    return values


def test_a_run_validates_on_the_part_held_out_and_ends_on_the_test_images(tmp_path: Path) -> None:
    parts = toy_run.Parts()
    parts.data = limited_stripes = toy_run.Stripes(
        input_size=12, batch_size=16, limit_per_class=10, validation=0.5
    )
    result = parts.fit(tmp_path)
    values = logged(tmp_path)
    for stage in ("warmup", "find", "tune"):
        accuracies = values[stage, "acc"]
        assert len(accuracies) == 2  # one an epoch
        # twentieths, of 5 images of each of 4 classes; there are 24 test images
        assert all(20 * value == pytest.approx(round(20 * value)) for value in accuracies)
    assert len(limited_stripes.dataset("validation")) == 20
    stated = ("train_images", "test_images", "limit_per_class", "validation")
    assert [result[key] for key in stated] == [20, 24, 10, 0.5]
    assert result["limit_test_per_class"] is None
    measured = evaluate(parts.network, toy_run.Stripes(input_size=12, batch_size=16), quiet=True)
    assert result["test_accuracy"] == measured.test_accuracy


def test_another_limit_is_another_run(tmp_path: Path) -> None:
    def config(**options: object) -> dict[str, object]:
        return {"data": {"class_path": "Stripes", "init_args": options}}

    without, two = config(validation=0.0), config(validation=0.0, limit_per_class=2)
    assert config_differences(without, two) == ["data.init_args.limit_per_class: None there, 2 now"]
    # a folder begun before the option was there goes on
    assert not config_differences(without, config(validation=0.0, limit_per_class=None))
    assert method_leaves(two) != method_leaves(config(validation=0.0, limit_per_class=3))


def test_limits_are_options_of_every_data_set() -> None:
    # those left out look at their files first
    sets = {getattr(data, name) for name in data.__all__} - {ImageData, ImageFolder, CSVImages}
    sets = {cls for cls in sets if isinstance(cls, type) and issubclass(cls, ImageData)}
    assert len(sets) >= 10
    for cls in sets:
        assert cls("nowhere", limit_per_class=3).limit_per_class == 3
