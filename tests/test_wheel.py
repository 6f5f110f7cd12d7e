"""A wheel holds all that a user needs: without the clone, configs are found and commands run."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import from, into which a wheel was unpacked, built as the Dockerfile does."""
    folder = tmp_path_factory.mktemp("wheel")
    image = (ROOT / "Dockerfile").read_text().partition("RUN pip wheel")[0]
    for name in " ".join(re.findall(r"^COPY (.+) \S+$", image, re.M)).split():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    built = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*built, "-w", str(folder), str(folder)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def vpns(installed: Path, *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "vpns_lightning.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


@pytest.mark.slow
def test_a_wheel_works_without_the_clone(installed: Path, tmp_path: Path) -> None:
    configs = {str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*.yaml")}
    package = installed / "vpns_lightning"
    assert {str(file.relative_to(package)) for file in package.rglob("*.yaml")} == configs
    for needed in ("py.typed", "report/templates/page.html"):
        assert (package / needed).is_file()
    assert "quickstart" in vpns(installed, "configs", cwd=tmp_path)
    # the package of the wheel and not that of the clone answers
    copied = vpns(installed, "configs", "quickstart", "--copy", str(tmp_path), cwd=tmp_path)
    assert copied.strip() == str(tmp_path / "quickstart.yaml")
    given = ("--config", "quickstart", "--config", "pruner/omp", "--print_config")
    assert "vpns_lightning.OMP" in vpns(installed, "fit", *given, cwd=tmp_path)
    # a grid names its base and overlays, which are found too
    assert "0 done" in vpns(installed, "grid", "fig7_mini", "--dry-run", cwd=tmp_path)
