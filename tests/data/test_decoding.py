"""Images of more than 8 bits, several frames, or turned by their EXIF data."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy

import toy_data
import vpns_lightning as vpns
from reference.toy_networks import ToyNet
from toy_run import Parts
from vpns_lightning.data import BadImageError, ImageFolder, Split
from vpns_lightning.data.images.decode import decode
from vpns_lightning.data.images.encoded import Encoded
from vpns_lightning.data.images.looking import remarks

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def save(path: Path, values: npt.NDArray[np.generic]) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        (".png", GREY.astype(np.uint16) * 257),  # the whole range of 16 bits
        (".tif", GREY.astype(np.uint16) * 257),
        (".png", GREY.astype(np.uint16) * 16 + 5),  # 12 bits of a camera, with an offset
        (".tif", GREY.astype(np.int32) * 100_000 - 7),
        (".tif", GREY.astype(np.float32) / 255),
        (".tif", GREY.astype(np.float32) * 3.5 - 200),
    ],
)
def test_grey_of_more_than_8_bits_keeps_its_steps(
    tmp_path: Path, suffix: str, values: npt.NDArray[np.generic]
) -> None:
    read = np.asarray(decode(save(tmp_path / f"deep{suffix}", values)))
    assert (read == GREY[..., None]).all()


def test_a_uniform_deep_image_is_black_not_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "flat.png", np.full((4, 5), 9000, np.uint16))
    assert not np.asarray(decode(path)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_image_that_is_not_finite_is_refused_by_name(tmp_path: Path, value: float) -> None:
    values = GREY.astype(np.float32)
    values[3, 4] = value
    path = save(tmp_path / "hole.tif", values)
    with pytest.raises(BadImageError, match=r"hole\.tif: it holds values that are not finite"):
        decode(path, 0)


def turned(path: Path, orientation: int) -> Path:
    image = toy_data.noise(3, (12, 8)).resize((48, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize(
    ("orientation", "operation"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_270),
        (8, Image.Transpose.ROTATE_90),
    ],
)
def test_exif_data_turn_an_image_only_where_asked(
    tmp_path: Path, orientation: int, operation: Image.Transpose | None
) -> None:
    path = turned(tmp_path / "turned.jpg", orientation)
    with Image.open(path) as image:
        stored = image.convert("RGB")
    assert np.array_equal(decode(path), stored)
    upright = stored.transpose(operation) if operation is not None else stored
    assert np.array_equal(decode(path, exif_rotation=True), upright)


def test_turning_is_an_option_of_a_data_set(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            turned(tmp_path / part / name / "x.jpg", 6)
    as_stored, upright = (
        ImageFolder(str(tmp_path), input_size=16, exif_rotation=option).split("train").image(0)
        for option in (False, True)
    )
    assert (as_stored.size, upright.size) == ((48, 32), (32, 48))


def test_what_changes_how_images_are_read_is_said(tmp_path: Path) -> None:
    files = [turned(tmp_path / "a.jpg", 6), save(tmp_path / "b.png", GREY.astype(np.uint16) * 9)]
    frames = [toy_data.noise(seed, (9, 9)) for seed in (1, 2)]
    frames[0].save(tmp_path / "c.gif", save_all=True, append_images=frames[1:])
    toy_data.noise(3, (9, 9)).save(tmp_path / "d.png")
    files += [tmp_path / "c.gif", tmp_path / "d.png"]
    lines = remarks(Split([0] * 4, ["x"], files))
    assert len(lines) == 3
    assert lines[0].startswith("1 of 4 files looked at say in their EXIF data")
    assert "--data.exif_rotation true turns them" in lines[0]
    assert "more than 8 bits; each is scaled to 8 bits" in lines[1]
    assert "several frames, of which the first is used" in lines[2]
    assert "and are turned" in remarks(Split([0] * 4, ["x"], files, exif_rotation=True))[0]
    assert not remarks(Split([0], ["x"], files[3:]))


def test_it_is_said_before_training_and_in_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        turned(tmp_path / part / "a" / "x.jpg", 6)
        turned(tmp_path / part / "b" / "x.jpg", 1)
    data = ImageFolder(str(tmp_path), input_size=16)
    said = "ImageFolder, test split: 1 of 2 files looked at say in their EXIF data"
    assert said in str(data.check())
    data.prepare_data()
    assert said in capsys.readouterr().out
    data.prepare_data()  # as Lightning does for every stage
    assert said not in capsys.readouterr().out


def jpeg_folder(root: Path, *, odd: str = "") -> Path:
    for part in ("train", "test"):
        for label in range(2):
            for number in range(4):
                image = toy_data.noise(10 * label + number, (6, 5)).resize((40 + number, 36))
                mode = "L" if number == 1 else "RGB"
                path = root / part / f"class{label}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.convert(mode).save(path, quality=95)
    if odd:
        toy_data.noise(3, (30, 30)).convert(odd).save(root / "train" / "class0" / "odd.jpg")
    return root


def batch_of(data: ImageFolder) -> tuple[object, torch.Tensor, torch.Tensor]:
    return data.dataset("train", augmented=True).__getitems__([5, 0, 1])


@pytest.mark.parametrize("odd", ["", "CMYK"])
def test_files_are_decoded_where_a_batch_is_sent_to(tmp_path: Path, odd: str) -> None:
    root = str(jpeg_folder(tmp_path, odd=odd))
    here = ImageFolder(root, input_size=16, batch_size=4, cache="none")
    there = ImageFolder(root, input_size=16, batch_size=4, cache="none", decode_on_device=True)
    expected, labels, rows = batch_of(here)
    held, same_labels, same_rows = batch_of(there)
    assert isinstance(held, Encoded)
    pixels = held.to("cpu")
    assert pixels.shape == expected.shape == (3, 3, 18, 18)
    assert pixels.stride() == expected.stride()
    # decoders and resizing round otherwise
    assert (pixels.int() - expected.int()).abs().max() <= 3
    assert torch.equal(labels, same_labels)
    assert torch.equal(rows, same_rows)
    assert torch.equal(held[1:2].to("cpu"), pixels[1:2])
    if odd:  # what decoders of GPUs may not take is decoded here, and the others of its batch
        last = len(there.dataset("train")) // 2
        mixed = there.dataset("train").__getitems__([last, 0])[0]
        assert isinstance(mixed, torch.Tensor)
        assert torch.equal(mixed, here.dataset("train").__getitems__([last, 0])[0])


@pytest.mark.slow
def test_a_run_reads_files_in_its_workers_and_decodes_where_it_trains(tmp_path: Path) -> None:
    root = str(jpeg_folder(tmp_path / "images"))
    data = ImageFolder(
        root, input_size=12, batch_size=4, cache="none", num_workers=1, decode_on_device=True
    )
    parts = Parts(epochs=1)
    torch.manual_seed(0)
    parts.network = vpns.PromptedClassifier(ToyNet(classes=6), 2, prompt=vpns.PadPrompt(16, 2))
    for stage in (parts.warmup, parts.find, parts.tune):
        assert stage is not None
        stage.network = parts.network
        stage.acc = stage.acc_plain = MulticlassAccuracy(2)
    parts.data = data
    result = parts.fit(tmp_path / "run", enable_progress_bar=False)
    assert 0 <= result["test_accuracy"] <= 1


def test_a_cut_off_file_is_one_line(tmp_path: Path) -> None:
    root = jpeg_folder(tmp_path)
    path = root / "train" / "class0" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    data = ImageFolder(str(root), input_size=16, cache="none", decode_on_device=True)
    held = data.dataset("train").__getitems__([0, 1])[0]
    with pytest.raises(vpns.UserError, match=r"cannot be decoded on cpu .*decode_on_device"):
        held.to("cpu")
    with pytest.raises(vpns.UserError, match="decode_on_device turns no images"):
        ImageFolder(str(root), decode_on_device=True, exif_rotation=True)
