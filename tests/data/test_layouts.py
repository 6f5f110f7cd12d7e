"""Every data set reads its official layout, and says what is wrong with a damaged one."""

import pickle
import shutil
from pathlib import Path

import pytest

import toy_data
from vpns_lightning import data
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import ImageData, ImageFolder, StanfordCars

CLASSES = {
    "CIFAR10": 10,
    "CIFAR100": 100,
    "DTD": 47,
    "Flowers102": 102,
    "Food101": 101,
    "ImageNet": 1000,
    "OxfordPets": 37,
    "StanfordCars": 196,
    "TinyImageNet": 200,
}
BATCH_SIZES = dict.fromkeys(CLASSES, 256) | {
    "DTD": 64,
    "Flowers102": 128,
    "ImageNet": 1024,
    "OxfordPets": 64,
    "StanfordCars": 128,
}
TRAIN_PARTS = dict.fromkeys(CLASSES, 1) | {"CIFAR10": 5, "DTD": 2, "Flowers102": 2}


def build(name: str, root: Path, **options: object) -> ImageData:
    dataset: ImageData = getattr(data, name)(str(root), **{"input_size": 16} | options)
    return dataset


@pytest.mark.parametrize("name", CLASSES)
def test_each_official_layout_gives_its_classes_labels_and_pixels(
    name: str, tmp_path: Path
) -> None:
    count = 1 if name == "ImageNet" else 2
    toy_data.make_layout(name, tmp_path, images_per_class=count)
    module = build(name, tmp_path, download=False, cache="none")
    train, test = module.split("train"), module.split("test")
    assert module.num_classes == len(module.class_names) == CLASSES[name]
    assert len(train) == CLASSES[name] * count * TRAIN_PARTS[name]
    assert len(test) == CLASSES[name] * count
    assert set(train.labels) == set(test.labels) == set(range(CLASSES[name]))
    images, labels, rows = module.dataset("train").__getitems__([3, 0])
    assert images.shape == (2, 3, 16, 16)
    assert labels.tolist() == [train.labels[3], train.labels[0]]
    assert rows.tolist() == [3, 0]


@pytest.mark.parametrize("name", CLASSES)
def test_batch_size_defaults_are_the_papers(name: str) -> None:
    assert build(name, Path("nowhere")).batch_size == BATCH_SIZES[name]


@pytest.mark.parametrize("name", CLASSES)
def test_num_classes_is_known_before_any_file_is_read(name: str) -> None:
    assert build(name, Path("nowhere")).num_classes == CLASSES[name]


@pytest.mark.parametrize("name", ["CIFAR100", "DTD", "TinyImageNet"])
def test_check_compares_counts_with_the_public_figures(name: str, tmp_path: Path) -> None:
    toy_data.make_layout(name, tmp_path)
    with pytest.raises(UserError, match=rf"{name}, train split: expected [\d,]+ images, found"):
        build(name, tmp_path).check()


def test_check_reports_an_image_folder(tmp_path: Path) -> None:
    toy_data.make_layout("ImageFolder", tmp_path)
    report = ImageFolder(str(tmp_path)).check(sample=4)
    assert report.images == {"train": 6, "test": 6}
    assert report.decoded == 8
    assert "3 classes; 8 decoded, 12 x 10 to 12 x 10 px" in str(report)


def test_check_finds_one_missing_file(tmp_path: Path) -> None:
    toy_data.make_layout("DTD", tmp_path)
    module = build("DTD", tmp_path)
    module.counts = None  # type: ignore[misc]
    file = module.split("test").files[5]
    file.unlink()
    with pytest.raises(UserError, match=f"1 of 94 image files are missing .* image 5, {file}"):
        module.check()


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_data_set_says_which_folder_to_fill(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name} is not complete in {tmp_path}: .* fill "):
        build(name, tmp_path, download=False).setup()


@pytest.mark.parametrize(
    ("name", "part"),
    [("DTD", "dtd/dtd/labels/test1.txt"), ("CIFAR10", "cifar-10-batches-py/data_batch_3")],
)
def test_a_half_extracted_data_set_names_what_is_missing(
    name: str, part: str, tmp_path: Path
) -> None:
    toy_data.make_layout(name, tmp_path)
    (tmp_path / part).unlink()
    with pytest.raises(UserError, match=f"{part} not found"):
        build(name, tmp_path, download=False).setup()


def test_a_truncated_cifar_file_is_a_user_error(tmp_path: Path) -> None:
    toy_data.make_layout("CIFAR100", tmp_path)
    file = tmp_path / "cifar-100-python" / "train"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"CIFAR100 .* damaged or half-extracted"):
        build("CIFAR100", tmp_path).setup()


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("payload-ran"),)  # type: ignore[return-value]


def test_a_cifar_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy_data.make_layout("CIFAR100", tmp_path)
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(UserError, match="refused to load"):
        build("CIFAR100", tmp_path).setup()
    assert not Path("payload-ran").exists()


def test_a_label_outside_the_classes_is_refused(tmp_path: Path) -> None:
    toy_data.make_layout("OxfordPets", tmp_path)
    file = tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt"
    file.write_text(file.read_text().replace(" 37 1 1", " 38 1 1"))
    with pytest.raises(
        UserError, match=r"OxfordPets, test split: expected labels 0..36, found 0..37"
    ):
        build("OxfordPets", tmp_path).setup()


def test_a_missing_class_is_refused(tmp_path: Path) -> None:
    toy_data.make_layout("ImageNet", tmp_path, images_per_class=1)
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / "imagenet" / part / "n0007")
    with pytest.raises(UserError, match="ImageNet, train split: expected 1000 classes, found 999"):
        build("ImageNet", tmp_path).setup()


@pytest.mark.parametrize(
    "inside", ["stanford_cars", "car_data/car_data", "stanford_cars/car_data/car_data"]
)
def test_stanford_cars_may_be_class_folders(inside: str, tmp_path: Path) -> None:
    toy_data.make_car_folders(tmp_path, inside)
    split = StanfordCars(str(tmp_path)).split("test")
    assert len(split) == len(set(split.labels)) == 196


def test_imagenet_may_be_the_root_itself(tmp_path: Path) -> None:
    toy_data.make_layout("ImageNet", tmp_path, images_per_class=1)
    assert len(build("ImageNet", tmp_path / "imagenet").split("train")) == 1000


def test_tiny_imagenet_classes_are_in_alphabetical_order(tmp_path: Path) -> None:
    toy_data.make_layout("TinyImageNet", tmp_path)
    module = build("TinyImageNet", tmp_path)
    assert module.class_names[:2] == ("thing n0000", "thing n0001")
    assert module.split("test").labels[:3] == [0, 1, 2]


def test_an_image_folder_without_classes_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no class folders in .*train; fill it with one folder"):
        ImageFolder(str(tmp_path))


def test_an_image_folder_with_other_test_classes_is_refused(tmp_path: Path) -> None:
    toy_data.make_layout("ImageFolder", tmp_path)
    (tmp_path / "test" / "class0001").rename(tmp_path / "test" / "typo")
    with pytest.raises(UserError, match="differ in class0001, typo"):
        ImageFolder(str(tmp_path)).setup()


def test_the_val_folder_does_for_test(tmp_path: Path) -> None:
    toy_data.make_layout("ImageFolder", tmp_path)
    (tmp_path / "test").rename(tmp_path / "val")
    assert len(ImageFolder(str(tmp_path)).split("test")) == 6


def test_digits_need_no_files() -> None:
    report = data.Digits("nowhere").check()
    assert report.images == {"train": 1437, "test": 360}
    assert not Path("nowhere").exists()
