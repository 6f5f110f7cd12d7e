"""Folders of images as they are: what is read, what is left out and said, what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features
from torchvision.datasets.folder import find_classes, make_dataset

import toy_data
from vpns_lightning.base.errors import UserError
from vpns_lightning.cli import main
from vpns_lightning.data import ImageFolder

Prepare = Callable[[Path], None]


def folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Path:
    for part in ("train", "test"):
        for label, name in enumerate(classes):
            for index in range(count):
                save(root / part / name / f"{index}.png", label * count + index)
    return root


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    toy_data.noise(seed, (9, 9)).save(path)


def module(root: Path) -> ImageFolder:
    return ImageFolder(str(root), input_size=16)


def said(root: Path) -> str:
    """Return what is said before training, which the check says too."""
    data = module(root)
    lines = [*data.split("train").remarks, *data.split("test").remarks]
    report = str(data.check())
    assert all(line in report for line in lines)
    data.prepare_data()
    return "\n".join(lines)


def names(root: Path, part: str = "train") -> list[str]:
    files = module(root).split(part).files  # type: ignore[arg-type]
    return [file.relative_to(root / part).as_posix() for file in files]


def test_order_and_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    folder(tmp_path, ("Zebra", "ant", "10", "9", "größe 猫"))
    for place in (
        "ant/sub/b.png",
        "ant/sub-2/a.png",
        "ant/sub.png",
        "ant/S/x.JPG",
        "ant/sub/c/1.png",
    ):
        save(tmp_path / "train" / place)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    save(tmp_path / "elsewhere" / "deep" / "linked.png")
    (tmp_path / "train" / "10" / "link").symlink_to(tmp_path / "elsewhere")
    classes, index = find_classes(tmp_path / "train")
    expected = make_dataset(str(tmp_path / "train"), index, extensions=(".png", ".jpg"))
    split = module(tmp_path).split("train")
    assert list(split.class_names) == classes
    assert [(str(f), label) for f, label in zip(split.files, split.labels, strict=True)] == expected


HIDDEN: dict[str, Prepare] = {
    "notebook checkpoints": lambda root: save(root / "train" / ".ipynb_checkpoints" / "0.png"),
    "empty notebook checkpoints": lambda root: (root / "train" / ".ipynb_checkpoints").mkdir(),
    "resource forks": lambda root: [  # type: ignore[dict-item, return-value]
        (root / "train" / "cat" / name).write_bytes(b"\0\5\26\7" + bytes(100))
        for name in ("._0.png", ".DS_Store")
    ],
    "a folder of an archiver": lambda root: save(root / "train" / "cat" / "__MACOSX" / "0.png"),
    "checkpoints in a class": lambda root: save(
        root / "test" / "dog" / ".ipynb_checkpoints" / "a.png"
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_files_and_folders_are_left_out_counted_and_named(tmp_path: Path, kind: str) -> None:
    before = [names(folder(tmp_path), part) for part in ("train", "test")]
    HIDDEN[kind](tmp_path)
    assert [names(tmp_path, part) for part in ("train", "test")] == before
    assert module(tmp_path).num_classes == 2
    hidden = {".ipynb_checkpoints", "._0.png", "__MACOSX"}
    assert any(name in said(tmp_path) for name in hidden)
    assert "hidden, are left out" in said(tmp_path)


def test_files_of_other_kinds_are_counted_and_named(tmp_path: Path) -> None:
    folder(tmp_path)
    for index in range(12):
        (tmp_path / "train" / "cat" / f"{index}.heic").touch()
    for place in ("cat/notes.txt", "labels.csv", "dog/Thumbs.db", "dog/README"):
        (tmp_path / "train" / place).touch()
    text = said(tmp_path)
    assert "files of other kinds (12 .heic, 1 .txt, 1 .db, 1 without suffix, 1 .csv)" in text
    assert "are left out: cat/0.heic, cat/1.heic, cat/10.heic and 13 more" in text


def test_images_beside_the_class_folders_are_named(tmp_path: Path) -> None:
    folder(tmp_path)
    save(tmp_path / "train" / "lost.png")
    assert "(1 .png) are left out: lost.png" in said(tmp_path)


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".JPG", ".jpe", ".tga", ".jp2", ".avif"])
def test_kinds_that_pillow_reads_are_read(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    folder(tmp_path)
    with Image.open(tmp_path / "train" / "cat" / "0.png") as image:
        kind = {".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG", ".jp2": "JPEG2000"}.get(suffix)
        image.save(tmp_path / "train" / "cat" / f"new{suffix}", kind)
    assert f"cat/new{suffix}" in names(tmp_path)
    assert module(tmp_path).split("train").image(
        names(tmp_path).index(f"cat/new{suffix}")
    ).size == (9, 9)
    assert not said(tmp_path)


def empty(root: Path, part: str) -> None:
    for file in (root / part / "dog").iterdir():
        file.unlink()


def other_kinds(root: Path, part: str) -> None:
    for file in (root / part / "dog").iterdir():
        file.rename(file.with_suffix(".heic"))


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (empty, "holds no image: fill"),
        (other_kinds, r"holds no image, but files of other kinds \(3 .heic"),
    ],
)
def test_a_class_without_images_is_refused(
    tmp_path: Path, part: str, change: Callable[[Path, str], None], reason: str
) -> None:
    change(folder(tmp_path), part)
    for run in (module(tmp_path).prepare_data, module(tmp_path).check):
        with pytest.raises(UserError, match=rf"{part}/dog {reason}"):
            run()


@pytest.mark.parametrize("target", ["train", "train/cat", "train/cat/sub", "."])
def test_a_link_that_leads_back_is_refused(tmp_path: Path, target: str) -> None:
    folder(tmp_path)
    save(tmp_path / "train" / "cat" / "sub" / "x.png")
    link = tmp_path / "train" / "cat" / "sub" / "loop"
    link.symlink_to(tmp_path / target)
    for run in (module(tmp_path).prepare_data, module(tmp_path).check):
        with pytest.raises(UserError, match=rf"the link {link} leads back to .*: remove it"):
            run()


def test_a_loop_of_two_links_is_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "train" / "cat" / "out").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "back").symlink_to(tmp_path / "train" / "cat")
    with pytest.raises(UserError, match="leads back to"):
        module(tmp_path).prepare_data()


def test_a_broken_link_is_a_missing_image(tmp_path: Path) -> None:
    (folder(tmp_path) / "train" / "cat" / "zz.png").symlink_to("/nowhere.png")
    with pytest.raises(UserError, match=r"1 of 7 image files are missing or empty, .*zz\.png"):
        module(tmp_path).check()


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test", "Val"])
def test_the_part_to_test_on_may_have_another_name(tmp_path: Path, name: str) -> None:
    (folder(tmp_path) / "test").rename(tmp_path / name)
    assert len(module(tmp_path).split("test")) == 6
    assert (f"train, {name} in" in said(tmp_path)) == (name != "test")


def test_a_second_part_is_said_to_be_unused(tmp_path: Path) -> None:
    folder(tmp_path)
    save(tmp_path / "val" / "cat" / "0.png")
    assert said(tmp_path).startswith("val is not used, as test holds the test images; --data.valid")


def test_the_only_folder_in_the_root_may_hold_the_parts(tmp_path: Path) -> None:
    folder(tmp_path / "dataset")
    assert len(module(tmp_path).split("train")) == 6
    assert f"taken from train, test in {tmp_path}/dataset" in said(tmp_path)


def test_class_folders_without_parts_are_refused_with_what_is_there(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "0.png")
    save(tmp_path / "dog" / "0.png")
    with pytest.raises(UserError, match=r"no class folders in .*train; .*holds cat, dog"):
        module(tmp_path)


def test_the_check_on_the_command_line_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    HIDDEN["resource forks"](folder(tmp_path))
    main(["data", "check", "--data", "ImageFolder", "--data.root", str(tmp_path)])
    assert (
        "train split: cat/.DS_Store, cat/._0.png, hidden, are left out" in capsys.readouterr().out
    )
