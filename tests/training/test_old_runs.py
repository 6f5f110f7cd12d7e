"""A run that version 0.1.0 has begun goes on: its last stage had another name then."""

from pathlib import Path

import pytest
import torch
import yaml

from toy_run import KillAt, Killed, Parts

NEW, OLD = "prompt_tuning", "prompt"


def parts() -> Parts:
    return Parts(epochs=1, prompt_stage={"epochs": 3})


def as_it_was(folder: Path) -> None:
    """Give a run folder the names of 0.1.0."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    old = {OLD if key == NEW else key: value for key, value in config.items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(old, sort_keys=False))
    metrics = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(metrics.replace(f"{NEW},", f"{OLD},"))
    (folder / NEW).rename(folder / OLD)
    file = folder / OLD / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["vpns"]["stage"] = OLD
    torch.save(checkpoint, file)


def test_a_run_that_0_1_0_has_begun_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KillAt, "fired", False)
    whole = parts()
    whole.fit(tmp_path / "whole")
    begun = tmp_path / "begun"
    with pytest.raises(Killed):
        parts().fit(begun, KillAt(NEW, 1, -1))
    as_it_was(begun)
    again = parts()
    again.fit(begun, KillAt(NEW, 1, -1))
    expected = whole.network.state_dict()
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not (begun / NEW).exists()  # it went on from the checkpoint, not from the start
    assert (begun / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
