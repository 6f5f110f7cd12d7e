"""What a person sees of a run under way: lines of finished epochs, a bar that fits the terminal."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from toy_run import Parts
from vpns_lightning.training.callbacks import progress

CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bar_fits_the_terminal_and_epochs_stay_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda: console)
    Parts().fit(tmp_path)
    frames = [CODES.sub("", part) for part in re.split(r"[\r\n]", screen.getvalue())]
    assert max(map(len, frames)) <= width
    for stage in ("warmup", "find", "tune"):
        for epoch in (1, 2):
            title = f"{stage} epoch {epoch}/2"
            (kept,) = [f for f in frames if f.startswith(title) and f.rstrip().endswith(" s")]
            assert "loss" in kept or width == 40
        # the last frame of a stage is drawn however short it was
        bar = next(f for f in reversed(frames) if f.startswith(f"{stage} epoch 2/2") and "%" in f)
        assert "100%" in bar
        assert "0:00:0" in bar
        if width >= 80:
            assert re.search(r"loss \d\.\d{3}  train_acc \d\.\d{3}", bar)


def test_without_a_terminal_each_epoch_is_one_whole_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Parts().fit(tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    assert len(lines) == 6
    assert all("loss" in line and "train_acc" in line and line.endswith(" s") for line in lines)
    assert not any("\x1b" in line or "%" in line for line in lines)
