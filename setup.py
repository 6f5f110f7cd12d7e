"""What setup.cfg cannot say: the configs at the top of the repository are data of the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path("configs")


class BuildWithConfigs(build_py):
    """Puts the configs into a wheel; an editable install reads them where they are."""

    def run(self) -> None:
        """Copy the modules, then the configs."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "vpns_lightning", CONFIGS)
            shutil.rmtree(target, ignore_errors=True)  # what an older build left
            shutil.copytree(CONFIGS, target)


setup(cmdclass={"build_py": BuildWithConfigs})
