"""Downloads that fail leave one line that says what to do."""

from pathlib import Path
from urllib.error import URLError

import pytest

import toy_data
from vpns_lightning import data
from vpns_lightning.base.errors import UserError

DOWNLOADABLE = ["CIFAR10", "CIFAR100", "DTD", "Flowers102", "Food101", "OxfordPets", "TinyImageNet"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def fail(url: object, *args: object, **kwargs: object) -> object:
        asked.append(str(getattr(url, "full_url", url)))
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    return asked


@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_a_failed_download_names_the_folder_the_files_and_the_address(
    name: str, tmp_path: Path, no_network: list[str]
) -> None:
    module = getattr(data, name)(str(tmp_path))
    with pytest.raises(UserError, match="Name or service not known") as caught:
        module.prepare_data()
    message = str(caught.value)
    assert no_network
    assert message.startswith(f"{name} could not be downloaded from http")
    assert f"fill {tmp_path} with {module.layout.official[0]}" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["ImageNet", "StanfordCars"])
def test_what_cannot_be_downloaded_says_so(
    name: str, tmp_path: Path, no_network: list[str]
) -> None:
    with pytest.raises(UserError, match=f"fill {tmp_path} with .*cannot be downloaded"):
        getattr(data, name)(str(tmp_path)).prepare_data()
    assert not no_network


def test_nothing_is_downloaded_when_the_files_are_there(
    tmp_path: Path, no_network: list[str]
) -> None:
    toy_data.make_layout("CIFAR100", tmp_path)
    data.CIFAR100(str(tmp_path)).prepare_data()
    assert not no_network


def test_download_false_downloads_nothing(tmp_path: Path, no_network: list[str]) -> None:
    with pytest.raises(UserError, match="is not complete"):
        data.CIFAR100(str(tmp_path), download=False).prepare_data()
    assert not no_network
