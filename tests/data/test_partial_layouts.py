"""What is there in part, or in a form nobody knows: refused with what differs, not downloaded."""

import shlex
import shutil
from pathlib import Path

import pytest

import toy_data
from data.test_found_layouts import CARS, LABELS, PETS, TINY, build, move
from vpns_lightning import data
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import ImageData, ImageFolder

REFUSED: dict[str, tuple[str, str, str]] = {
    "StanfordCars": (
        f"{CARS}/{LABELS}",
        LABELS,
        "stanford_cars holds cars_test, cars_train, devkit",
    ),
    "Food101": ("food-101/meta", "food-101/meta/train.json", "food-101/meta does not exist"),
    "DTD": ("dtd/dtd/labels/val1.txt", "dtd/dtd/labels/val1.txt", "labels holds test1.txt, train1"),
    "OxfordPets": (f"{PETS}/images", f"{PETS}/images", f"{PETS} holds annotations"),
    "Flowers102": ("flowers-102/setid.mat", "setid.mat", "flowers-102 holds imagelabels.mat, jpg"),
    "TinyImageNet": (f"{TINY}/train", f"{TINY}/train", f"{TINY} holds val, wnids.txt, words.txt"),
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", pytest.fail)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_there_in_part_is_refused_with_both_paths_not_downloaded(
    name: str, tmp_path: Path
) -> None:
    taken, missing, there = REFUSED[name]
    toy_data.make_layout(name, tmp_path, images_per_class=1)
    path = tmp_path / taken
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError) as caught:
        build(name, tmp_path).prepare_data()
    assert f"{missing} not found" in str(caught.value) or f"{missing}, " in str(caught.value)
    assert there in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_what_is_there_one_folder_deeper_is_not_downloaded(tmp_path: Path) -> None:
    toy_data.make_layout("Food101", tmp_path)
    move(tmp_path, "food-101", "food-101/food-101")
    build("Food101", tmp_path).prepare_data()


@pytest.mark.usefixtures("no_network")
def test_lists_without_their_images_are_refused_by_the_folder(tmp_path: Path) -> None:
    toy_data.make_layout("DTD", tmp_path)
    folder = tmp_path / "dtd" / "dtd" / "images"
    shutil.rmtree(folder)
    (folder / "other").mkdir(parents=True)
    with pytest.raises(UserError, match=r"none of 16 image files looked at .*texture0000"):
        build("DTD", tmp_path).prepare_data()


@pytest.mark.usefixtures("no_network")
def test_flowers_in_class_folders_of_another_split_name_the_way_in(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        for label in ("1", "2"):
            folder = tmp_path / "flowers-102" / "dataset" / part / label
            folder.mkdir(parents=True)
            toy_data.noise(3, (9, 9)).save(folder / "image_00001.jpg")
    with pytest.raises(
        UserError, match=r"jpg.* not found.*--data ImageFolder --data.root .+"
    ) as caught:
        build("Flowers102", tmp_path).prepare_data()
    way_in = shlex.split(str(caught.value))[-1]
    assert len(ImageFolder(way_in).split("test")) == 2


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("place", ["dataset", "data/dataset", "."])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_folders_of_all_classes_are_not_downloaded_again(
    place: str, first: int, tmp_path: Path
) -> None:
    for part in ("train", "valid"):
        for label in range(first, first + 102):
            (tmp_path / place / part / str(label)).mkdir(parents=True)
    with pytest.raises(UserError, match=r"another --data\.root downloads") as caught:
        build("Flowers102", tmp_path).prepare_data()
    folder = (tmp_path / place).resolve()
    assert str(caught.value).endswith(f"--data ImageFolder --data.root {folder}")


def number_folders(folder: Path, classes: int) -> None:
    for part in ("train", "valid"):
        for label in range(1, classes + 1):
            (folder / part / str(label)).mkdir(parents=True)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("place", ["dataset", "flower_data", "flowers/dataset"])
def test_some_classes_of_kaggle_s_flowers_are_not_downloaded_beside(
    place: str, tmp_path: Path
) -> None:
    number_folders(tmp_path / place, 3)
    with pytest.raises(UserError, match=rf"--data ImageFolder --data\.root .+/{place}$"):
        build("Flowers102", tmp_path).prepare_data()


@pytest.mark.parametrize(
    ("name", "classes"), [("Flowers102", 3), ("Flowers102", 101), ("CIFAR10", 10)]
)
def test_numbered_folders_of_other_classes_are_another_data_set(
    name: str, classes: int, tmp_path: Path
) -> None:
    number_folders(tmp_path / "mnist", classes)
    module = build(name, tmp_path)
    assert not module.layout.begun(tmp_path, module.num_classes)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "place", "taken"),
    [
        ("Flowers102", "archive", "setid.mat"),
        ("OxfordPets", f"downloads/{PETS}", "annotations/test.txt"),
        ("CIFAR100", "downloads/cifar-100-python", "meta"),
    ],
)
def test_a_part_of_it_one_folder_down_is_refused_by_its_place(
    name: str, place: str, taken: str, tmp_path: Path
) -> None:
    toy_data.make_layout(name, tmp_path, images_per_class=1)
    (official,) = tmp_path.iterdir()
    move(tmp_path, official.name, place)
    (tmp_path / place / taken).unlink()
    with pytest.raises(UserError, match=f"{place}/{taken} not found"):
        build(name, tmp_path).prepare_data()


def test_a_download_that_was_killed_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """What a kill looks like from inside."""

    begun: list[int] = []

    def half(self: ImageData) -> None:
        (tmp_path / "food-101" / "images" / "x").mkdir(parents=True, exist_ok=True)
        begun.append(1)
        if len(begun) == 1:
            raise Killed
        toy_data.make_layout("Food101", tmp_path)

    monkeypatch.setattr(data.Food101, "fetch", half)
    with pytest.raises(Killed):
        build("Food101", tmp_path).prepare_data()
    build("Food101", tmp_path).prepare_data()
    build("Food101", tmp_path).prepare_data()
    assert len(begun) == 2


def test_other_data_at_the_root_are_no_begun_download(tmp_path: Path) -> None:
    toy_data.make_layout("ImageFolder", tmp_path)  # its train and test are not those of CIFAR-100
    assert not data.CIFAR100.layout.begun(tmp_path)
    with pytest.raises(UserError, match=r"cifar-100-python/train, .* not found"):
        data.CIFAR100(str(tmp_path), download=False).setup()


class Nests(data.Food101):
    """A data set of a plug-in, whose paths are relative to the root."""

    layout = data.Layout(("nests/images", "nests/train.txt"), "https://a.b", downloadable=True)


def test_data_of_others_in_the_root_do_not_keep_a_plug_in_from_downloading(tmp_path: Path) -> None:
    toy_data.make_layout("ImageFolder", tmp_path)
    assert not Nests.layout.begun(tmp_path)
    (tmp_path / "nests" / "images").mkdir(parents=True)
    assert Nests.layout.begun(tmp_path)


def test_a_download_that_failed_leaves_room_for_the_archive_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(self: ImageData) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(data.Food101, "fetch", offline)
    with pytest.raises(UserError, match="no route to host"):
        build("Food101", tmp_path).prepare_data()
    toy_data.make_layout("Food101", tmp_path)
    build("Food101", tmp_path).prepare_data()


def test_after_half_a_download_what_was_put_there_by_hand_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: ImageData) -> None:
        (tmp_path / "food-101" / "images" / "x").mkdir(parents=True, exist_ok=True)
        raise OSError("no space left")

    monkeypatch.setattr(data.Food101, "fetch", half)
    with pytest.raises(UserError, match="no space left"):
        build("Food101", tmp_path).prepare_data()
    toy_data.make_layout("Food101", tmp_path)
    with pytest.raises(UserError, match="to use what is there as it is, delete") as caught:
        build("Food101", tmp_path).prepare_data()
    Path(str(caught.value).rpartition("delete ")[2]).unlink()
    build("Food101", tmp_path).prepare_data()
