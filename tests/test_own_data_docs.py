"""What the page on your own images says can be done, done."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets

import toy_data
from vpns_lightning import cli
from vpns_lightning.base import trust
from vpns_lightning.data import ImageData, Split

PAGE = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def block(kind: str, part: str) -> str:
    (found,) = (text for name, text in BLOCKS if name == kind and part in text)
    return found


def images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        toy_data.noise(seed, (9, 9)).save(folder / name)


def test_the_table_of_the_page_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "photos" / "photos", "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "photos" / "images.csv").write_text(block("csv", "path,label,split"))
    monkeypatch.chdir(tmp_path)
    cli.main(["data", "check", "--data", "CSVImages", "--data.root", "photos"])
    assert "2 train, 1 test images" in capsys.readouterr().out


def test_the_class_of_the_page_is_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "data" / "photos", "1.png", "2.png", "3.png")
    (tmp_path / "data" / "labels.txt").write_text("1.png 0 train\n2.png 1 train\n3.png 1 test\n")
    (tmp_path / "birds.py").write_text(block("python", "# birds.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_named", set())
    cli.main(block("sh", "--data Birds").split()[1:])
    assert "Birds in data: 2 train, 1 test images" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["MNIST", "beans"])
def test_the_data_sets_of_the_page_come_through_one_door(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hugging = pytest.importorskip("datasets")
    pictures = [toy_data.noise(seed, (28, 28)) for seed in range(4)]
    kinds = hugging.Features(
        image_file_path=hugging.Value("string"),
        image=hugging.Image(),
        labels=hugging.ClassLabel(names=["angular_leaf_spot", "bean_rust", "healthy"]),
    )
    columns = {"image_file_path": list("abcd"), "image": pictures, "labels": [0, 1, 2, 0]}
    beans = hugging.Dataset.from_dict(columns, features=kinds)
    split = {"train": beans, "test": beans}
    monkeypatch.setattr(hugging, "load_dataset", lambda _: split)
    monkeypatch.setattr(
        datasets, "MNIST", lambda *_, train: datasets.FakeData(8, (1, 28, 28), num_classes=10)
    )
    made: dict[str, Any] = {}
    exec(block("python", name), made)
    data: ImageData = made["data"]
    assert data.split("train").image(0).size == (28, 28)
    assert data.num_classes == (3 if name == "beans" else max(data.split("train").labels) + 1)


def test_all_code_of_the_page_is_run_here() -> None:
    code = [text for name, text in BLOCKS if name == "python"]
    assert len(code) == 3
    for part in ("MNIST", "beans", "# birds.py"):
        assert block("python", part) in code


def test_the_page_names_every_field_of_a_split() -> None:
    fields = set(Split.__dataclass_fields__) - {"exif_rotation"}
    assert all(f"| `{field}` |" in PAGE for field in fields)
