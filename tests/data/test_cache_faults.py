"""A cache that is not what was written, or not of the files that are there now, is never used."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import toy_data
from vpns_lightning.base.errors import UserError
from vpns_lightning.cli import main
from vpns_lightning.data import ImageData, ImageFolder
from vpns_lightning.data.images import building
from vpns_lightning.data.images.cache import verify_caches


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toy_data.make_layout("ImageFolder", tmp_path, images_per_class=40, size=(20, 20))


def module(root: Path, **options: object) -> ImageFolder:
    return ImageFolder(str(root), **{"input_size": 16, "num_workers": 0} | options)


def pixels(data: ImageData) -> torch.Tensor:
    dataset = data.dataset("train")
    return dataset.__getitems__(list(range(len(dataset))))[0]


def train_cache(root: Path) -> Path:
    (path,) = (root / ".vpns_cache").glob("*train-native*.npy")
    return path


def flip(path: Path, place: int, *, keep_time: bool = False) -> None:
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 16]))
    if keep_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# the array's header takes 128 bytes; images of 1,200 bytes follow
@pytest.mark.parametrize("place", [20, 60, 128, 128 + 1200 * 76 + 5, 128 + 1200 * 120 - 1])
def test_one_flipped_bit_anywhere_is_noticed_and_mended(
    root: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pixels(module(root))
    flip(train_cache(root), place)
    assert torch.equal(pixels(module(root)), before)
    assert f"{train_cache(root)} is not what was written there" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".crc32", ".json"])
def test_a_damaged_checksum_or_stamp_is_noticed(root: Path, suffix: str) -> None:
    before = pixels(module(root))
    file = train_cache(root).with_suffix(suffix)
    flip(file, 0)
    assert torch.equal(pixels(module(root)), before)
    verify_caches(root / ".vpns_cache")


def test_a_bit_that_rots_without_a_trace_is_found_on_request(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module(root).setup()
    arguments = ["data", "check", "--data", "ImageFolder", "--data.root", str(root), "--caches"]
    main(arguments)
    printed = capsys.readouterr().out
    assert f"{train_cache(root)}: 120 images, 0.1 MiB, every byte as it was written" in printed
    # image 76 is none of the 64 that are looked at whenever the cache is opened
    flip(train_cache(root), 128 + 1200 * 76 + 5, keep_time=True)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "1 of its 120 images are not what was written, the first is image 76" in message


def test_a_copied_cache_is_compared_once_then_known(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pixels(module(root))
    copy = root / "copy.npy"
    shutil.copyfile(train_cache(root), copy)
    copy.replace(train_cache(root))
    monkeypatch.setattr(building, "_write", pytest.fail)
    assert torch.equal(pixels(module(root)), before)
    flip(train_cache(root), 128 + 1200 * 76, keep_time=True)
    # its new time is in the stamp, so that only the sample is compared
    assert not torch.equal(pixels(module(root)), before)


def test_an_image_replaced_by_one_of_equal_name_and_size_gets_a_new_cache(root: Path) -> None:
    before = pixels(module(root))
    file = root / "train" / "class0001" / "class0001_7.png"
    old = file.read_bytes()
    for seed in range(1000, 3000):
        toy_data.noise(seed, (20, 20)).save(file)
        if file.stat().st_size == len(old):
            break
    assert file.stat().st_size == len(old)
    after = pixels(module(root))
    changed = (before != after).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == [module(root).split("train").files.index(file)]


def test_turning_images_upright_has_a_cache_of_its_own(root: Path) -> None:
    module(root).setup()
    module(root, exif_rotation=True).setup()
    assert len(list((root / ".vpns_cache").glob("*train-native*.npy"))) == 2


def test_every_file_is_asked_about_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(root, cache="resized").setup()
    asked: list[str] = []
    real = Path.stat

    def counted(path: Path, **options: bool) -> os.stat_result:
        if path.suffix == ".png":
            asked.append(str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", counted)
    module(root, cache="resized").setup()
    few = 2  # one of each split, in case none at all is there
    assert len(asked) == 240 + few
    assert len(set(asked)) == 240


def test_an_empty_folder_of_caches_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "--data", "ImageFolder", "--data.root", str(root), "--caches"])
    assert f"there is no cache in {root}/.vpns_cache" in capsys.readouterr().out


def test_a_cache_without_its_array_is_refused_on_request(root: Path) -> None:
    module(root).setup()
    train_cache(root).unlink()
    with pytest.raises(UserError, match=r"is damaged .*the next run makes it again"):
        verify_caches(root / ".vpns_cache")
