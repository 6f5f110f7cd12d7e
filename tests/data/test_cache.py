"""Caches are built once, survive faults, and hold exactly the pixels of the uncached path."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toy_data
from vpns_lightning.base.errors import UserError
from vpns_lightning.data import ImageData, ImageFolder, split
from vpns_lightning.data.images import building


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toy_data.make_layout("ImageFolder", tmp_path, images_per_class=4, size=(20, 20))


def module(root: Path, **options: object) -> ImageFolder:
    return ImageFolder(str(root), **{"input_size": 16, "num_workers": 0} | options)


def pixels(data: ImageData, *, augmented: bool = False) -> torch.Tensor:
    dataset = data.dataset("train", augmented=augmented)
    return dataset.__getitems__(list(range(len(dataset))))[0]


def caches(root: Path) -> list[Path]:
    return sorted((root / ".vpns_cache").glob("*.npy"))


@pytest.mark.parametrize("augmented", [True, False])
def test_resized_and_uncached_pixels_are_the_same(root: Path, augmented: bool) -> None:
    cached = pixels(module(root, cache="resized"), augmented=augmented)
    decoded = pixels(module(root, cache="none"), augmented=augmented)
    assert cached.shape[-1] == (18 if augmented else 16)
    assert torch.equal(cached, decoded)


def test_source_keeps_the_files_own_pixels(root: Path) -> None:
    data = module(root, cache="source")
    own = torch.from_numpy(np.array(data.split("train").image(5)))
    assert torch.equal(pixels(data)[5].permute(1, 2, 0), own)


def test_images_are_decoded_only_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(root).setup()
    monkeypatch.setattr(building, "_write", pytest.fail)
    module(root).setup()


def test_a_changed_file_gets_a_new_cache(root: Path) -> None:
    before = pixels(module(root, cache="source"))
    toy_data.noise(99, (20, 20)).convert("L").convert("RGB").save(
        next((root / "train" / "class0000").iterdir())
    )
    assert not torch.equal(before, pixels(module(root, cache="source")))


@pytest.mark.parametrize("damage", ["truncate", "empty", "zeros", "no stamp", "bad stamp", "text"])
def test_a_damaged_cache_is_rebuilt(root: Path, damage: str) -> None:
    before = pixels(module(root, cache="resized"), augmented=True)
    for path in caches(root):
        content = path.read_bytes()
        if damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "zeros":
            path.write_bytes(content[:-500] + bytes(500))
        elif damage == "text":
            path.write_text("<html>quota exceeded</html>")
        elif damage == "no stamp":
            path.with_suffix(".json").unlink()
        else:
            path.with_suffix(".json").write_text('{"mixed": ')
    assert torch.equal(before, pixels(module(root, cache="resized"), augmented=True))


def _build_slowly(root: Path) -> None:
    def slow(path: Path, index: int, **options: object) -> object:
        time.sleep(0.2)
        return Image.open(path).convert("RGB")

    split.decode = slow  # type: ignore[assignment]
    module(root, cache="resized").setup()


def test_a_killed_builder_leaves_nothing_behind(root: Path) -> None:
    builder = multiprocessing.get_context("fork").Process(target=_build_slowly, args=(root,))
    builder.start()
    folder = root / ".vpns_cache"
    deadline = time.monotonic() + 30
    while not list(folder.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(folder.glob(".*.tmp"))
    assert not caches(root)
    module(root, cache="resized").setup()
    assert not list(folder.glob(".*.tmp"))
    assert len(caches(root)) == 3


def _build(root: Path) -> None:
    module(root, cache="resized").setup()


def test_builders_at_the_same_time_do_no_harm(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=_build, args=(root,)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert torch.equal(pixels(module(root, cache="resized")), pixels(module(root, cache="none")))


def _build_counting(root: Path) -> None:
    write = building._write

    def counted(*args: object) -> None:
        (root / f"decoded-{os.getpid()}-{time.time_ns()}").touch()
        time.sleep(0.3)
        write(*args)  # type: ignore[arg-type]  # passed on

    building._write = counted  # type: ignore[assignment]  # in a process of its own
    module(root).setup()


def test_builders_at_the_same_time_decode_once(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=_build_counting, args=(root,)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    # training and test images, by whoever came first; the others waited
    assert len(list(root.glob("decoded-*"))) == 2


@pytest.mark.parametrize("seen", ["before", "while writing"])
def test_a_full_disk_says_how_much_is_needed_where_and_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if seen == "while writing":  # another program has filled it meanwhile
        monkeypatch.setattr(os, "fsync", full)
    free = shutil.disk_usage(root)._replace(free=100 if seen == "before" else 2 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    folder = root / ".vpns_cache"
    needed = "1 MB" if seen == "before" else "at least 3 MB"
    said = rf"\(disk full: {needed} needed in {folder}\).*--data.cache_dir.*--data.cache none"
    with pytest.raises(UserError, match=said) as refused:
        module(root, cache="resized").setup()
    assert "\n" not in str(refused.value)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_cache_that_may_not_be_written_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=r"\(Input/output error: .*vpns_cache\): free some space"):
        module(root).setup()


def test_auto_keeps_small_uniform_images_at_their_size(root: Path) -> None:
    module(root).setup()
    assert all("native" in path.name for path in caches(root))


def test_auto_resizes_larger_images(tmp_path: Path) -> None:
    root = toy_data.make_layout("ImageFolder", tmp_path, size=(80, 80))
    module(root).setup()
    assert [path.name.split("-")[1:3] for path in caches(root)] == [
        ["test", "16"],
        ["train", "16"],
        ["train", "18"],
    ]


def test_auto_without_room_decodes_in_workers(tmp_path: Path) -> None:
    root = toy_data.make_layout("ImageFolder", tmp_path, size=(80, 80))
    data = module(root, cache_limit=0.0, num_workers=None)
    assert data.val_dataloader().num_workers >= 1
    assert not caches(root)


def _with_one_odd_image(root: Path) -> Path:
    # the last but one of more images than auto looks at
    for index in range(100):
        side = 24 if index == 98 else 20
        toy_data.noise(index, (side, side)).save(root / "train" / "class0002" / f"x{index:03}.png")
    return root


def test_auto_resizes_when_a_single_image_has_another_size(root: Path) -> None:
    data = module(_with_one_odd_image(root))
    assert pixels(data).shape == (112, 3, 16, 16)
    assert torch.equal(pixels(data), pixels(module(root)))


def test_source_with_several_sizes_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"has 20 x 20 and 24 x 24 px; use --data.cache resized"):
        module(_with_one_odd_image(root), cache="source").setup()


def test_a_dataset_is_pickled_without_its_pixels(root: Path) -> None:
    dataset = module(root, cache="resized").dataset("train")
    first = dataset[0][0]
    dumped = pickle.dumps(dataset)
    assert len(dumped) < 3000
    assert torch.equal(pickle.loads(dumped)[0][0], first)


def test_stamps_are_json(root: Path) -> None:
    module(root).setup()
    stamp = json.loads(caches(root)[0].with_suffix(".json").read_text())
    assert stamp["bad"] == []
