"""Paths in one array, and what a split knows of itself."""

import pickle
import sys
from pathlib import Path

import pytest
import torch

from vpns_lightning.data import Digits, Split
from vpns_lightning.data.split import Paths

NAMES = ["/data/a/x.png", "/data/a/ünï 猫.png", "/data/b/y.jpg", "/data/b/" + "z" * 200, "/data/b"]


@pytest.mark.parametrize("names", [NAMES, NAMES[:1], [], ["a", "/b"], ["same", "same"]])
def test_paths_come_back_as_they_were(names: list[str]) -> None:
    paths = Paths(names)
    assert list(paths) == [Path(name) for name in names]
    assert len(paths) == len(names)
    assert paths == [Path(name) for name in names]
    assert list(pickle.loads(pickle.dumps(paths))) == list(paths)
    if names:
        assert paths[-1] == Path(names[-1])
        assert paths[:1] == [Path(names[0])]


def test_a_place_beyond_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        Paths(NAMES)[len(NAMES)]


def test_names_that_are_no_text_survive() -> None:
    odd = Path("/data/caf\udce9.png")  # a byte of an old encoding, as the file system gave it
    assert Paths([odd, "/data/a"])[0] == odd


def test_a_hundred_thousand_paths_are_pickled_as_a_few_megabytes() -> None:
    files = [
        Path(f"/somewhere/imagenet/train/n{i // 1000:08d}/n{i:08d}.JPEG") for i in range(100_000)
    ]
    split = Split([0] * len(files), ["x"], files)
    objects = sum(map(sys.getsizeof, files)) + sum(len(str(file)) for file in files)
    assert len(pickle.dumps(split.files)) < 4_000_000 < objects / 2
    assert split.files[77_123] == files[77_123]


def test_a_fingerprint_told_by_another_process_is_taken() -> None:
    split = Split([0], ["x"], [Path("/nowhere/at/all.png")])
    assert split.known_fingerprint is None
    split.tell_fingerprint("abc")
    assert (split.fingerprint, split.known_fingerprint) == ("abc", "abc")


def test_data_are_on_the_cpu_whatever_torchs_default_device() -> None:
    # Lightning builds networks under the device they will be on
    with torch.device("meta"):
        data = Digits(input_size=8, batch_size=500, validation=0.2)
        loaders = [
            data.train_dataloader().iterables["prompted"],
            data.val_dataloader(),
            data.mapping_dataloader(),
        ]
        batches = [next(iter(loader)) for loader in loaders]
    assert {tensor.device.type for batch in batches for tensor in batch} == {"cpu"}
