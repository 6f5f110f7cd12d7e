"""Data sets as people have them: recognised by looking and said, or refused with what differs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.io import savemat

import toy_data
from vpns_lightning import data
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import ImageData, ImageNet, Split

TINY, CARS, PETS = "tiny-imagenet-200", "stanford_cars", "oxford-iiit-pet"
VAL = "ILSVRC2012_val"
LABELS = "cars_test_annos_withlabels.mat"


def build(name: str, root: Path) -> ImageData:
    module: ImageData = getattr(data, name)(str(root), input_size=16)
    return module


def contents(split: Split) -> list[tuple[int, bytes]]:
    if split.pixels is not None:
        return [(label, split.pixels[row].tobytes()) for row, label in enumerate(split.labels)]
    pairs = zip(split.labels, split.files, strict=True)
    return sorted((label, file.read_bytes()) for label, file in pairs)


def move(root: Path, old: str, new: str) -> None:
    """Move a folder or file, also to a place inside itself."""
    (root / old).rename(root / "moving")
    if new:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / "moving").rename(root / new)
        return
    for path in (root / "moving").iterdir():
        path.rename(root / path.name)


class Moved(NamedTuple):
    """A form: what is moved where in the official one, and what is said of it."""

    name: str
    moves: tuple[tuple[str, str], ...]
    said: str


MOVED = {
    "food one folder deeper": Moved(
        "Food101",
        (("food-101", "food-101/food-101"),),
        "taken from images, meta/train.json, meta/test.json in .*food-101/food-101$",
    ),
    "food at the root": Moved("Food101", (("food-101", ""),), "taken from images"),
    "dtd as its archive": Moved(
        "DTD", (("dtd/dtd", "x"), ("dtd", "y"), ("x", "dtd")), "labels/test1.txt in .*/dtd$"
    ),
    "flowers at the root": Moved("Flowers102", (("flowers-102", ""),), "taken from jpg"),
    "flowers of other code": Moved(
        "Flowers102", (("flowers-102", "oxford_flowers"),), "in .*oxford_flowers$"
    ),
    "pets in images in images": Moved(
        "OxfordPets", ((f"{PETS}/images", f"{PETS}/images/images"),), "taken from images/images"
    ),
    "cars in cars": Moved(
        "StanfordCars",
        tuple((f"{CARS}/cars_{p}", f"{CARS}/cars_{p}/cars_{p}") for p in ("train", "test")),
        "taken from cars_train/cars_train, cars_test/cars_test",
    ),
    "car labels in the devkit": Moved(
        "StanfordCars", ((f"{CARS}/{LABELS}", f"{CARS}/devkit/{LABELS}"),), f"devkit/{LABELS} in"
    ),
    "car devkit in a folder": Moved(
        "StanfordCars", ((f"{CARS}/devkit", f"{CARS}/car_devkit/devkit"),), "car_devkit/devkit/cars"
    ),
    "cars at the root": Moved("StanfordCars", ((CARS, ""),), "taken from cars_train, cars_test"),
    "tiny one folder deeper": Moved("TinyImageNet", ((TINY, f"{TINY}/{TINY}"),), "in .*"),
    "tiny without wnids": Moved("TinyImageNet", ((f"{TINY}/wnids.txt", "x"),), "taken from train"),
    "tiny without images in train": Moved(
        "TinyImageNet",
        tuple(
            move
            for wnid in toy_data.class_names("n", 200)
            for move in (
                (f"{TINY}/train/{wnid}/images", "x"),
                (f"{TINY}/train/{wnid}", f"old/{wnid}"),
                ("x", f"{TINY}/train/{wnid}"),
            )
        ),
        "",
    ),
    "flowers under another name": Moved(
        "Flowers102", (("flowers-102", "archive"),), "taken from jpg, .* in .*/archive$"
    ),
    "pets in a folder of downloads": Moved(
        "OxfordPets", ((PETS, f"downloads/{PETS}"),), f"in .*/downloads/{PETS}$"
    ),
    "cifar in a folder of downloads": Moved(
        "CIFAR100",
        (("cifar-100-python", "downloads/cifar-100-python"),),
        "in .*/downloads/cifar-100-python$",
    ),
    "cifar at the root": Moved("CIFAR100", (("cifar-100-python", ""),), "taken from train, test"),
}


# like others, and of hundreds of files
SLOW = {"tiny one folder deeper", "food at the root", "cars at the root", "car devkit in a folder"}


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.slow] * (form in SLOW)) for form in MOVED]
)
def test_another_place_holds_the_same_images_and_is_said(form: str, tmp_path: Path) -> None:
    name, moves, said = MOVED[form]
    toy_data.make_layout(name, tmp_path, images_per_class=1)
    official = build(name, tmp_path)
    assert not official.split("train").remarks
    before = {part: official.split(part) for part in ("train", "test")}
    stored = {part: contents(split) for part, split in before.items()}
    for old, new in moves:
        move(tmp_path, old, new)
    module = build(name, tmp_path)
    for part in ("train", "test"):
        assert list(module.split(part).labels) == list(before[part].labels)
        assert [f.name for f in module.split(part).files] == [f.name for f in before[part].files]
        assert contents(module.split(part)) == stored[part]
    assert len(module.split("train").remarks) == bool(said)
    assert re.search(said, "".join(module.split("train").remarks))


@pytest.mark.parametrize(
    ("place", "keeps_list"),
    [
        ("{wnid}/{name}", False),
        pytest.param("{wnid}/{name}", True, marks=pytest.mark.slow),
        pytest.param("{wnid}/images/{name}", False, marks=pytest.mark.slow),
        ("images/{wnid}/{name}", True),
    ],
)
def test_validation_images_of_tiny_imagenet_may_be_sorted(
    tmp_path: Path, place: str, keeps_list: bool
) -> None:
    toy_data.make_layout("TinyImageNet", tmp_path, images_per_class=1)
    before = contents(build("TinyImageNet", tmp_path).split("test"))
    val = tmp_path / TINY / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        target = val / place.format(wnid=wnid, name=name)
        target.parent.mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(target)
    if not keeps_list:
        (val / "val_annotations.txt").unlink()
    assert contents(build("TinyImageNet", tmp_path).split("test")) == before


def test_validation_images_without_classes_are_refused_before_any_is_decoded(
    tmp_path: Path,
) -> None:
    toy_data.make_layout("TinyImageNet", tmp_path, images_per_class=1)
    (tmp_path / TINY / "val" / "val_annotations.txt").unlink()
    with pytest.raises(UserError, match=r"200 of 200 images in .*val lie in no folder of a class"):
        build("TinyImageNet", tmp_path).setup()


@pytest.mark.parametrize("inside", ["", CARS])
def test_cars_may_be_class_folders_at_the_root_too(tmp_path: Path, inside: str) -> None:
    toy_data.make_car_folders(tmp_path, inside)
    assert len(build("StanfordCars", tmp_path).split("test")) == 196


def wnids(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "train").iterdir())


@pytest.fixture
def flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an ImageNet of four classes whose eight validation images lie in one folder."""
    monkeypatch.setattr(ImageNet, "num_classes", 4)
    for part in ("train", "val"):
        for label in range(4):
            for index in range(2):
                number = label + 4 * index + 1
                name = f"n{label:08d}_{index}" if part == "train" else f"{VAL}_{number:08d}"
                folder = tmp_path / part / (f"n{label:08d}" if part == "train" else "")
                folder.mkdir(parents=True, exist_ok=True)
                toy_data.noise(number, (9, 9)).save(folder / f"{name}.JPEG")
    return tmp_path


def solution(root: Path) -> None:
    rows = [f"{VAL}_{n:08d},n{(n - 1) % 4:08d} 1 2 3 4 " for n in (3, 1, 2, 8, 4, 7, 6, 5)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))


def numbered(root: Path) -> None:
    rows = [f"{VAL}_{n:08d}.JPEG {(n - 1) % 4}" for n in range(1, 9)]
    (root / "val.txt").write_text("\n".join(rows) + "\n")


def named(root: Path) -> None:
    rows = [f"{VAL}_{n:08d}.JPEG n{(n - 1) % 4:08d}" for n in range(1, 9)]
    (root / "val" / "val.txt").write_text("\n".join(rows))


def synsets(root: Path) -> None:
    rows = [f"n{(n - 1) % 4:08d}" for n in range(1, 9)]
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(rows))


def devkit(root: Path) -> None:
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    # the development kit numbers classes in an order of its own
    own = {2: "n00000000", 4: "n00000001", 1: "n00000002", 3: "n00000003"}
    number = {wnid: own_number for own_number, wnid in own.items()}
    meta = np.array(
        [(n, own[n]) for n in (1, 2, 3, 4)], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")]
    )
    savemat(folder / "meta.mat", {"synsets": meta})
    rows = [str(number[f"n{(n - 1) % 4:08d}"]) for n in range(1, 9)]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(rows))


@pytest.mark.parametrize("write", [solution, numbered, named, synsets, devkit])
def test_flat_validation_images_of_imagenet_take_their_classes_from_a_list(
    flat: Path, write: Callable[[Path], None]
) -> None:
    write(flat)
    split = build("ImageNet", flat).split("test")
    assert list(split.labels) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [f.name for f in split.files] == [f"{VAL}_{n:08d}.JPEG" for n in range(1, 9)]
    assert "val is in one folder, its classes are those of" in split.remarks[0]


def test_imagenet_as_on_a_hub_is_found_with_its_list(flat: Path) -> None:
    for part in ("train", "val"):
        move(flat, part, f"ILSVRC/Data/CLS-LOC/{part}")
    solution(flat)
    module = build("ImageNet", flat)
    assert list(module.split("test").labels) == [0, 1, 2, 3] * 2
    assert len(module.split("train")) == 8


def test_flat_validation_images_without_a_list_are_refused(flat: Path) -> None:
    with pytest.raises(UserError, match=r"its 8 images lie side by side.*LOC_val_solution.csv"):
        build("ImageNet", flat).setup()


def test_a_list_of_other_images_is_refused(flat: Path) -> None:
    (flat / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 0\n")
    with pytest.raises(UserError, match=r"no class for ILSVRC2012_val_00000002\.JPEG"):
        build("ImageNet", flat).setup()
    numbered(flat)
    (flat / "val.txt").write_text((flat / "val.txt").read_text().replace(" 3", " n7"))
    with pytest.raises(UserError, match="of class n7, which is no folder of train"):
        build("ImageNet", flat).setup()
