"""Small synthetic copies of the official data sets' folders and files."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def make_layout(
    name: str, root: Path, images_per_class: int = 2, size: tuple[int, int] = (12, 10)
) -> Path:
    """Write a synthetic copy of data set `name` under `root`, with all its classes.

    Args:
        name: Class name of the data set, such as `CIFAR100`.
        root: What `ImageData(root=...)` will get.
        images_per_class: Images of each class in each official part.
        size: Width and height in pixels; CIFAR is always 32 x 32.

    Returns:
        `root`.
    """
    _MAKERS[name](Path(root), images_per_class, size)
    return root


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return an RGB image of `size` (width, height) that depends on `seed`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def _save(path: Path, seed: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, size).save(path)


def _folders(folder: Path, classes: list[str], count: int, size: tuple[int, int]) -> None:
    for label, name in enumerate(classes):
        for index in range(count):
            _save(folder / name / f"{name}_{index}.png", label * count + index, size)


def class_names(prefix: str, count: int) -> list[str]:
    """Return names of classes."""
    return [f"{prefix}{label:04d}" for label in range(count)]


def _image_folder(root: Path, count: int, size: tuple[int, int]) -> None:
    for part in ("train", "test"):
        _folders(root / part, class_names("class", 3), count, size)


def _imagenet(root: Path, count: int, size: tuple[int, int]) -> None:
    for part in ("train", "val"):
        _folders(root / "imagenet" / part, class_names("n", 1000), count, size)


def _cifar(
    folder: Path, files: list[str], meta: tuple[str, str], classes: int, count: int, key: str
) -> None:
    folder.mkdir(parents=True)
    for seed, file in enumerate(files):
        labels = [label for label in range(classes) for _ in range(count)]
        pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072))
        content = {"data": pixels.astype(np.uint8), key: labels}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    names = {meta[1]: class_names("class", classes)}
    (folder / meta[0]).write_bytes(pickle.dumps(names, protocol=2))


def _cifar10(root: Path, count: int, size: tuple[int, int]) -> None:
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    meta = ("batches.meta", "label_names")
    _cifar(root / "cifar-10-batches-py", files, meta, 10, count, "labels")


def _cifar100(root: Path, count: int, size: tuple[int, int]) -> None:
    files = ["train", "test"]
    meta = ("meta", "fine_label_names")
    _cifar(root / "cifar-100-python", files, meta, 100, count, "fine_labels")


def _tiny_imagenet(root: Path, count: int, size: tuple[int, int]) -> None:
    folder, wnids = root / "tiny-imagenet-200", class_names("n", 200)
    for label, wnid in enumerate(wnids):
        for index in range(count):
            path = folder / "train" / wnid / "images" / f"{wnid}_{index}.JPEG"
            _save(path, label * count + index, size)
    lines = []
    for index in range(200 * count):
        _save(folder / "val" / "images" / f"val_{index}.JPEG", index, size)
        lines.append(f"val_{index}.JPEG\t{wnids[index % 200]}\t0\t0\t9\t9\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (folder / "words.txt").write_text("".join(f"{wnid}\tthing {wnid}\n" for wnid in wnids))


def _flowers102(root: Path, count: int, size: tuple[int, int]) -> None:
    folder = root / "flowers-102"
    labels = [label for label in range(1, 103) for _ in range(3 * count)]
    for number in range(1, len(labels) + 1):
        _save(folder / "jpg" / f"image_{number:05d}.jpg", number, size)
    numbers = np.arange(1, len(labels) + 1).reshape(102, 3, count)
    parts = {key: numbers[:, i].reshape(1, -1) for i, key in enumerate(("trnid", "valid", "tstid"))}
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(folder / "setid.mat", parts)


def _dtd(root: Path, count: int, size: tuple[int, int]) -> None:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for part_index, part in enumerate(("train", "val", "test")):
        lines = []
        for label, name in enumerate(class_names("texture", 47)):
            for index in range(count):
                file = f"{name}/{name}_{part}_{index}.jpg"
                _save(folder / "images" / file, part_index * 1000 + label * count + index, size)
                lines.append(f"{file}\n")
        (folder / "labels" / f"{part}1.txt").write_text("".join(lines))


def _food101(root: Path, count: int, size: tuple[int, int]) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for first, part in ((0, "train"), (count, "test")):
        ids = {
            name: [f"{name}/{index}" for index in range(first, first + count)]
            for name in class_names("food", 101)
        }
        for seed, path in enumerate(path for paths in ids.values() for path in paths):
            _save(folder / "images" / f"{path}.jpg", seed + first, size)
        (folder / "meta" / f"{part}.json").write_text(json.dumps(ids))


def _oxford_pets(root: Path, count: int, size: tuple[int, int]) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for first, part in ((0, "trainval"), (count, "test")):
        lines = []
        for label, name in enumerate(class_names("some_pet", 37), start=1):
            for index in range(first, first + count):
                _save(folder / "images" / f"{name}_{index}.jpg", label * 100 + index, size)
                lines.append(f"{name}_{index} {label} 1 1\n")
        (folder / "annotations" / f"{part}.txt").write_text("".join(lines))


def _stanford_cars(root: Path, count: int, size: tuple[int, int]) -> None:
    folder = root / "stanford_cars"
    annotations = {
        "train": folder / "devkit" / "cars_train_annos.mat",
        "test": folder / "cars_test_annos_withlabels.mat",
    }
    kinds = [(box, "O") for box in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    (folder / "devkit").mkdir(parents=True)
    for part, path in annotations.items():
        records = []
        for index in range(196 * count):
            name = f"{index + 1:05d}.jpg"
            _save(folder / f"cars_{part}" / name, index, size)
            records.append((1, 1, 2, 2, index // count + 1, name))
        savemat(path, {"annotations": np.array([records], dtype=kinds)})
    names = np.array([class_names("car", 196)], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def make_car_folders(root: Path, inside: str, images_per_class: int = 1) -> Path:
    """Write Stanford Cars as class folders under `root`/`inside`/{train,test}."""
    for part in ("train", "test"):
        _folders(root / inside / part, class_names("car", 196), images_per_class, (12, 10))
    return root


_MAKERS: dict[str, Callable[[Path, int, tuple[int, int]], None]] = {
    "CIFAR10": _cifar10,
    "CIFAR100": _cifar100,
    "DTD": _dtd,
    "Flowers102": _flowers102,
    "Food101": _food101,
    "ImageFolder": _image_folder,
    "ImageNet": _imagenet,
    "OxfordPets": _oxford_pets,
    "StanfordCars": _stanford_cars,
    "TinyImageNet": _tiny_imagenet,
}
OFFICIAL = sorted(set(_MAKERS) - {"ImageFolder"})
