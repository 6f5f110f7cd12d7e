"""Files of every kind that turns up in image folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toy_data
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import BadImageError, ImageFolder

BAD: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "truncated": lambda good: good[: len(good) // 2],
    "html": lambda good: b"<html>404 not found</html>",
    "noise": lambda good: bytes(range(256)) * 4,
}


def folder_with(root: Path, bad: dict[str, str], count: int = 4) -> Path:
    toy_data.make_layout("ImageFolder", root, images_per_class=count, size=(30, 30))
    for name, kind in bad.items():
        path = root / "train" / "class0001" / name
        path.write_bytes(BAD[kind](path.read_bytes()))
    return root


def module(root: Path, **options: object) -> ImageFolder:
    return ImageFolder(str(root), **{"input_size": 16, "num_workers": 0} | options)


@pytest.mark.parametrize("cache", ["source", "resized", "none"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_stops_with_path_and_index(tmp_path: Path, kind: str, cache: str) -> None:
    root = folder_with(tmp_path, {"class0001_2.png": kind})
    with pytest.raises(BadImageError, match=r"image 6, .*class0001_2.png: .*on_bad_image skip"):
        module(root, cache=cache).dataset("train").__getitems__([6])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_loader_process_refuses_is_said_as_briefly_as_without(
    tmp_path: Path, workers: int
) -> None:
    root = folder_with(tmp_path, {"class0001_2.png": "noise"})
    with pytest.raises(BadImageError) as refused:
        list(module(root, cache="none", num_workers=workers).mapping_dataloader())
    assert "Traceback" not in str(refused.value)
    assert str(refused.value).startswith("cannot decode image 6, ")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["source", "resized", "none"])
def test_skipping_leaves_out_the_bad_image_only(
    tmp_path: Path, cache: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder_with(tmp_path, {"class0001_2.png": "truncated"}, count=40)
    data = module(root, cache=cache, on_bad_image="skip", num_workers=workers)
    rows = torch.cat([batch[2] for batch in data.mapping_dataloader()])
    assert rows.tolist() == [row for row in range(120) if row != int(rows_of(data)[0])]
    if not workers:
        assert "class0001_2.png" in caplog.text


def rows_of(data: ImageFolder) -> list[int]:
    return [i for i, f in enumerate(data.split("train").files) if f.name == "class0001_2.png"]


@pytest.mark.parametrize("cache", ["resized", "none"])
def test_more_than_one_percent_is_too_much_to_skip(tmp_path: Path, cache: str) -> None:
    bad = {"class0001_2.png": "empty", "class0001_3.png": "html"}
    root = folder_with(tmp_path, bad, count=40)
    data = module(root, cache=cache, on_bad_image="skip")
    with pytest.raises(UserError, match=r"2 of 120 images cannot be decoded, more than the 1%"):
        list(data.mapping_dataloader())


def test_a_cache_built_while_skipping_still_stops_without(tmp_path: Path) -> None:
    root = folder_with(tmp_path, {"class0001_2.png": "empty"}, count=40)
    module(root, on_bad_image="skip").setup()
    with pytest.raises(BadImageError, match=r"class0001_2.png"):
        module(root).setup()


def test_the_first_image_may_be_bad(tmp_path: Path) -> None:
    root = folder_with(tmp_path, {}, count=40)
    (root / "train" / "class0000" / "class0000_0.png").write_bytes(b"")
    data = module(root, cache="source", on_bad_image="skip")
    assert len(data.dataset("train")) == 119
    assert data.dataset("train")[0][2].tolist() == [1]


def test_a_vanished_file_is_named(tmp_path: Path) -> None:
    root = folder_with(tmp_path, {})
    data = module(root, cache="none")
    data.split("train").files[3].unlink()
    with pytest.raises(BadImageError, match=r"image 3, .*: the file does not exist"):
        data.dataset("train").__getitems__([3])


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    root = folder_with(tmp_path, {})
    image = toy_data.noise(5, (30, 30)).convert(mode)
    suffix = ".tif" if mode == "CMYK" else ".png"
    path = root / "train" / "class0000" / f"a{suffix}"
    image.save(path)
    data = module(root, cache="source")
    with Image.open(path) as stored:
        expected = torch.from_numpy(np.array(stored.convert("RGB")))
    assert torch.equal(data.dataset("train")[0][0][0].permute(1, 2, 0), expected)
