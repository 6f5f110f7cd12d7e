"""Where decoded images are kept, and what is done where there is little room."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import toy_data
from vpns_lightning.base.errors import UserError
from vpns_lightning.cli import main
from vpns_lightning.data import ImageFolder
from vpns_lightning.data.images import keeping

TRAIN, TEST = 30 * 90**2 * 3, 30 * 80**2 * 3  # bytes at 9/8 of 80 px, and at 80 px


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    return toy_data.make_layout("ImageFolder", folder, images_per_class=10, size=(90, 100))


def module(root: Path, **options: object) -> ImageFolder:
    return ImageFolder(str(root), **{"input_size": 80, "num_workers": 0} | options)


def names(folder: Path) -> list[str]:
    return sorted("-".join(p.name.split("-")[1:3]) for p in folder.glob(".vpns_cache/*.npy"))


def everything(data: ImageFolder) -> list[torch.Tensor]:
    parts = [("train", True), ("train", False), ("test", False)]
    sets = [data.dataset(part, augmented=augmented) for part, augmented in parts]  # type: ignore[arg-type]
    return [images.__getitems__(list(range(len(images))))[0] for images in sets]


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (TRAIN - 1, []),
        (TRAIN, ["train-90"]),
        (TRAIN + TEST, ["test-80", "train-90"]),
        (TRAIN + 2 * TEST, ["test-80", "train-80", "train-90"]),
    ],
)
@pytest.mark.parametrize("of", ["limit", "disk"])
def test_what_every_epoch_needs_is_kept_first(
    root: Path, monkeypatch: pytest.MonkeyPatch, room: int, kept: list[str], of: str
) -> None:
    expected = everything(module(root, cache="none"))
    limit = room / 2**30 if of == "limit" else 8.0
    if of == "disk":
        monkeypatch.setattr(keeping, "_room", lambda folder: room)
    data = module(root, cache_limit=limit)
    if of == "disk" and not kept:
        with pytest.warns(UserWarning, match=r"cannot take a cache of .*--data.cache_dir"):
            data.setup()
    for one, other in zip(everything(data), expected, strict=True):
        assert torch.equal(one, other)
    assert names(root) == kept
    augmented = data.train_dataloader().iterables["prompted"]
    assert augmented.dataset.store.decodes == ("train-90" not in kept)
    assert data.test_dataloader().dataset.store.decodes == ("test-80" not in kept)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_only_loaders_that_decode_get_processes(root: Path) -> None:
    data = module(root, cache_limit=(TRAIN + 1) / 2**30, num_workers=None)
    assert data.train_dataloader().iterables["prompted"].num_workers == 0
    assert data.test_dataloader().num_workers >= 1


def test_caches_that_are_there_need_no_more_room(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(root).setup()
    monkeypatch.setattr(keeping, "_room", lambda folder: 0)
    data = module(root)
    assert len(data.cache_files) == 3


@pytest.fixture
def read_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root, which cannot be written to: not by root's own user either."""
    access, mkdir = os.access, Path.mkdir

    def no_access(path: Path, mode: int, **options: bool) -> bool:
        return not Path(path).is_relative_to(root) and access(path, mode, **options)

    def no_mkdir(path: Path, *args: object, **options: object) -> None:
        if path.is_relative_to(root):
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "access", no_access)
    monkeypatch.setattr(Path, "mkdir", no_mkdir)
    return root


def test_shared_data_that_cannot_be_written_name_the_way_out(read_only: Path) -> None:
    with pytest.warns(UserWarning, match=r"make it writable, or name another place with --data.ca"):
        module(read_only).setup()
    with pytest.raises(UserError, match=r"Permission denied.*another place with --data.cache_dir"):
        module(read_only, cache="resized").setup()


def test_the_cache_may_lie_elsewhere(read_only: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "scratch"
    data = module(read_only, cache_dir=str(elsewhere))
    data.setup()
    assert names(elsewhere) == ["test-80", "train-80", "train-90"]
    assert not (read_only / ".vpns_cache").exists()


def test_two_sets_of_images_may_share_a_folder_of_caches(root: Path, tmp_path: Path) -> None:
    other = toy_data.make_layout("ImageFolder", tmp_path / "b", images_per_class=10, size=(90, 100))
    file = other / "train" / "class0000" / "class0000_0.png"
    toy_data.noise(77, (90, 100)).save(file)
    shared = str(tmp_path / "scratch")
    for folder in (root, other, root):
        kept = everything(module(folder, cache_dir=shared))
        decoded = everything(module(folder, cache="none"))
        assert all(map(torch.equal, kept, decoded))


Run = Callable[..., str]


@pytest.fixture
def vpns(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, code: int = 0) -> str:
        if code:
            with pytest.raises(SystemExit) as stopped:
                main(arguments)
            assert stopped.value.code == code
            return capsys.readouterr().err
        main(arguments)
        return capsys.readouterr().out

    return run


def test_prepare_leaves_nothing_to_do_for_a_run(
    root: Path, tmp_path: Path, vpns: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: {{class_path: ImageFolder, init_args: {{root: {root}, input_size: 80}}}}\n"
        f"network: {{backbone: resnet18}}\n"
    )
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("find: {pruner: OMP}\n")
    said = vpns(
        *("data", "prepare", "--config", str(config), "--config", str(overlay)),
        *("--find.sparsity", "0.8", "--trainer.devices=2", "--seed_everything", "9"),
    )
    assert "is ready: 30 train, 30 test images, 3 classes" in said
    assert said.count(".npy: ") == 3
    from vpns_lightning.data.images import building

    monkeypatch.setattr(building, "_write", pytest.fail)
    assert len(module(root).cache_files) == 3


def test_prepare_refuses_what_it_does_not_know(root: Path, vpns: Run, tmp_path: Path) -> None:
    data = ["--data", "ImageFolder", "--data.root", str(root)]
    assert "did you mean 'input_size'" in vpns(
        "data", "prepare", *data, "--data.inputsize", "80", code=2
    )
    assert "there is no option 'dta.root'" in vpns("data", "prepare", "--dta.root", "x", code=2)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("find: {pruner: OMP}\n")
    assert "has no data section" in vpns("data", "prepare", "--config", str(overlay), code=2)
    assert "did you mean 'prepare'" in vpns("data", "prepar", code=2)
    for verb in ("check", "prepare"):
        assert "give --data CIFAR100 --data.root data" in vpns("data", verb, code=2)


def test_prepare_says_where_nothing_is_kept(vpns: Run) -> None:
    assert "no cache on disk is needed" in vpns("data", "prepare", "--data", "Digits")
