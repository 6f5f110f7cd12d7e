"""Data sets that were made elsewhere: torchvision's, Hugging Face's, tables, and one's own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from torchvision import datasets, transforms

import toy_data
import vpns_lightning as vpns
from toy_folder import finished_network, write_folder
from toy_run import Parts
from vpns_lightning.base.errors import UserError
from vpns_lightning.cli import main
from vpns_lightning.data import ImageData

Options = dict[str, Any]


class Own(Dataset[Any]):
    """Images (9, 9) of two classes in turn, in some form."""

    def __init__(self, count: int = 6, form: str = "pil", seed: int = 0) -> None:
        self.count, self.form, self.seed = count, form, seed
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.asked.append(index)
        image = toy_data.noise(self.seed + index, (9, 9))
        pixels = np.asarray(image)
        given: dict[str, Any] = {
            "pil": image,
            "grey": image.convert("L"),
            "array": pixels,
            "uint8": torch.from_numpy(pixels.copy()).permute(2, 0, 1),
            "float": transforms.functional.to_tensor(image),
            "normalised": transforms.functional.to_tensor(image) * 4 - 2,
            "random": toy_data.noise(len(self.asked), (9, 9)),
            "int64": pixels.astype(np.int64),
        }
        return given[self.form], index % 2


def pixels(data: ImageData, part: str = "train") -> np.ndarray[Any, Any]:
    split = data.split(part)  # type: ignore[arg-type]
    return np.stack([np.asarray(split.image(row)) for row in range(len(split))])


@pytest.mark.parametrize("form", ["array", "uint8", "float"])
def test_one_image_is_the_same_in_every_form(form: str, tmp_path: Path) -> None:
    expected = vpns.from_datasets(Own(), Own(seed=50), root=str(tmp_path), input_size=9)
    data = vpns.from_datasets(Own(form=form), Own(seed=50), root=str(tmp_path), input_size=9)
    assert np.array_equal(pixels(data), pixels(expected))
    assert data.num_classes == 2
    assert list(data.split("train").labels) == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("cache", ["source", "resized", "none"])
@pytest.mark.filterwarnings("ignore")
def test_batches_are_those_of_the_same_images_in_folders(cache: str, tmp_path: Path) -> None:
    for part, offset in (("train", 0), ("test", 50)):
        for index in range(6):
            path = tmp_path / part / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            toy_data.noise(offset + index, (9, 9)).save(path)
    options: Options = {"cache": cache, "input_size": 8, "num_workers": 0}
    theirs = [datasets.ImageFolder(str(tmp_path / part)) for part in ("train", "test")]
    given = vpns.from_datasets(*theirs, root=str(tmp_path / "given"), **options)
    folders = vpns.ImageFolder(str(tmp_path), **options)
    assert given.class_names == folders.class_names == ("a", "b")
    for data in (given, folders):
        data.prepare_data()
        data.setup()
    for part in ("train", "test"):
        ours, expected = (data.dataset(part)[3] for data in (given, folders))  # type: ignore[arg-type]
        assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
    assert pickle.loads(pickle.dumps(given)).dataset("train")[1][1].tolist() == [0]


def test_changed_images_get_a_cache_of_their_own(tmp_path: Path) -> None:
    first = vpns.from_datasets(Own(), Own(seed=9), root=str(tmp_path), input_size=9, cache="source")
    other = vpns.from_datasets(
        Own(seed=1), Own(seed=9), root=str(tmp_path), input_size=9, cache="source"
    )
    assert not torch.equal(first.dataset("train")[0][0], other.dataset("train")[0][0])
    assert first.cache_files[1] == other.cache_files[1]  # of the test images
    assert first.cache_files[0] != other.cache_files[0]


def fake(**options: Any) -> datasets.FakeData:
    return datasets.FakeData(size=12, image_size=(3, 9, 9), num_classes=3, **options)


def test_torchvisions_cifar_is_read_with_its_names_and_labels(tmp_path: Path) -> None:
    toy_data.make_layout("CIFAR10", tmp_path)
    official = vpns.CIFAR10(str(tmp_path), input_size=32)
    # of the wrong checksum, as they are small: opened without it
    made = datasets.CIFAR10.__new__(datasets.CIFAR10)
    made.transform = made.target_transform = made.transforms = None
    split = official.split("train")
    made.data, made.targets, made.classes = split.pixels, list(split.labels), list("abcdefghij")
    data = vpns.from_datasets(made, Subset(made, [3, 1]), input_size=32)
    assert (data.name, data.class_names) == ("CIFAR10", tuple("abcdefghij"))
    assert np.array_equal(pixels(data), split.pixels)
    assert list(data.split("test").labels) == [split.labels[3], split.labels[1]]


def test_labels_in_the_open_are_read_without_images(tmp_path: Path) -> None:
    class Open(Own):
        def __init__(self) -> None:
            super().__init__(count=100)
            self.targets = torch.arange(100) % 2

    dataset = Open()
    vpns.from_datasets(ConcatDataset([Subset(dataset, range(50)), dataset]), dataset)
    assert len(set(dataset.asked)) < 20
    dataset.targets = torch.arange(100) % 2 + 1  # what items do not say
    data = vpns.from_datasets(dataset, dataset)
    assert data.num_classes == 2


def test_a_transform_of_targets_is_obeyed() -> None:
    data = vpns.from_datasets(fake(), fake(target_transform=lambda label: 2 - label))
    train, test = data.split("train").labels, data.split("test").labels
    assert list(test) == [2 - label for label in train]


def test_names_may_be_labels_and_limits_go_by_the_images(tmp_path: Path) -> None:
    class Named(Own):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            image, label = super().__getitem__(index)
            return image, ("wolf", "ant")[label]

    data = vpns.from_datasets(Named(), Named(), limit_per_class=2, name="my birds/1")
    assert data.class_names == ("ant", "wolf")
    assert list(data.split("train").labels) == [1, 0, 1, 0] or len(data.split("train")) == 4
    assert data.name == "my-birds-1"
    report = data.check()
    assert report.images == {"train": 6, "test": 6}
    assert "images and labels of Named" in str(report)


class Streaming(IterableDataset[Any]):
    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        return iter([])


class Triple(Own):
    def __getitem__(self, index: int) -> Any:
        return (*super().__getitem__(index), 1)


class Vector(Own):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0], torch.ones(40)


class Hidden(Own):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0], -1


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a stream": (Streaming(), Own(), "map-style data set of .image, label., not one that streams"),
    "three parts": (Triple(), Own(), r"expected items \(image, label\), got tuple of 3"),
    "several labels": (Vector(), Own(), r"label 0 is Tensor \(40,\), expected the number or the n"),
    "labels kept back": (Own(), Hidden(), r"test split: image 0 has the label -1 .*kept back"),
    "normalised": (Own(form="normalised"), Own(), r"image 0 has values from .*leave out Normalize"),
    "random transforms": (Own(form="random"), Own(), "image 0 is another one each time"),
    "int64": (Own(form="int64"), Own(), "is of int64, expected uint8, or float"),
    "empty": (Own(0), Own(), "has the label 0, which is none of the 0 classes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_before_training(case: str) -> None:
    train, test, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        vpns.from_datasets(train, test).split("train")


def test_an_image_that_fails_is_named_and_may_be_skipped(tmp_path: Path) -> None:
    class Broken(Own):
        def __getitem__(self, index: int) -> tuple[Any, Any]:
            if index == 77 and not self.labels_only:
                raise OSError("truncated")
            return super().__getitem__(index)

        labels_only = True

    train = Broken(200)
    options: Options = {"root": str(tmp_path), "input_size": 9, "cache": "source"}
    data = vpns.from_datasets(train, Own(), **options)
    train.labels_only = False
    with pytest.raises(UserError, match=r"image 77 cannot be read \(OSError: truncated\)"):
        data.prepare_data()
    train.labels_only = True
    data = vpns.from_datasets(train, Own(), on_bad_image="skip", **options)
    train.labels_only = False
    data.prepare_data()
    assert len(data.dataset("train")) == 199


def hub(count: int = 6, **columns: Any) -> Any:
    """Return a Hugging Face data set as it is after loading, images encoded."""
    hugging = pytest.importorskip("datasets")
    images = [toy_data.noise(index, (9, 9)) for index in range(count)]
    names = hugging.ClassLabel(names=["cat", "dog"])
    content = {"image": images, "label": [index % 2 for index in range(count)], **columns}
    features = {"image": hugging.Image(), "label": names}
    features |= {name: hugging.ClassLabel(names=["a", "b"]) for name in columns}
    return hugging.Dataset.from_dict(content, features=hugging.Features(features))


@pytest.mark.filterwarnings("ignore")
def test_hugging_faces_come_through_the_same_door(tmp_path: Path) -> None:
    hub(8).save_to_disk(str(tmp_path / "saved"))
    hugging = pytest.importorskip("datasets")
    loaded = hugging.load_from_disk(str(tmp_path / "saved")).train_test_split(0.25, seed=0)
    data = vpns.from_datasets(
        loaded["train"].with_format("torch"), loaded["test"], root=str(tmp_path), input_size=9
    )
    assert data.class_names == ("cat", "dog")
    assert list(data.split("train").labels) == list(loaded["train"]["label"])
    expected = np.stack([np.asarray(row["image"]) for row in loaded["train"]])
    assert np.array_equal(pixels(data), expected)
    assert "by image and label" in data.split("train").remarks[0]
    data.prepare_data()
    assert data.dataset("test")[0][0].shape == (1, 3, 9, 9)


@pytest.mark.filterwarnings("ignore")
def test_several_columns_of_labels_are_to_be_chosen_from() -> None:
    two = hub(6, coarse=[0, 0, 0, 1, 1, 1])
    with pytest.raises(UserError, match=r"keys image, label, coarse; name those of image and lab"):
        vpns.from_datasets(two, two)
    data = vpns.from_datasets(two, two, columns=("image", "coarse"))
    assert list(data.split("train").labels) == [0, 0, 0, 1, 1, 1]
    assert data.class_names == ("a", "b")
    with pytest.raises(UserError, match="no column 'fine'; there are image, label, coarse"):
        vpns.from_datasets(two, two, columns=("image", "fine"))


@pytest.mark.filterwarnings("ignore")
def test_a_run_on_a_given_data_set_trains_and_is_recorded(tmp_path: Path) -> None:
    parts = Parts(epochs=1)
    parts.data = vpns.from_datasets(
        Own(12), Own(seed=50), class_names=list("abcd"), root=str(tmp_path), input_size=12
    )
    result = parts.fit(tmp_path / "run")
    assert (result["dataset"], result["train_images"], result["test_images"]) == ("Own", 12, 6)


def test_a_config_cannot_name_data_of_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "check", "--data", "FromDatasets"])
    assert "a config cannot bring them back" in capsys.readouterr().err


def test_a_run_on_data_of_a_program_says_so_where_they_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "run", finished_network())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] = {
        "class_path": "vpns_lightning.data.sets.given.FromDatasets",
        "init_args": {"input_size": 32, "batch_size": 4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert vpns.load(folder).num_classes == 10
    with pytest.raises(SystemExit):
        main(["test", "--run", str(folder)])
    assert "a config cannot bring them back" in capsys.readouterr().err


def test_images_that_are_no_files_are_not_decoded_on_the_device(tmp_path: Path) -> None:
    options: Options = {"root": str(tmp_path), "input_size": 9, "cache": "none"}
    on_device = vpns.from_datasets(Own(), Own(), decode_on_device=True, **options)
    expected = vpns.from_datasets(Own(), Own(), **options)
    assert torch.equal(on_device.dataset("train")[2][0], expected.dataset("train")[2][0])
