"""The dashboards of a run: begun with a stage, told what it came to, and ended."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from PIL import Image

from vpns_lightning.base.processes import is_first_process
from vpns_lightning.training.dashboards.facts import Facts, scalars
from vpns_lightning.training.dashboards.guarding import harmless, opened
from vpns_lightning.training.dashboards.kinds import Dashboard, dashboard_of
from vpns_lightning.training.dashboards.pictures import Picture

# also points of a curve, for loggers that keep nothing but curves
LOGGED_RESULTS = ("sparsity", "test_accuracy", "test_accuracy_plain")
# beside the files of an artifact
DESCRIBED = (*("method", "dataset", "backbone", "seed"), *LOGGED_RESULTS)


class Shown:
    """What shows a run, on its first process; elsewhere loggers alone.

    Args:
        facts: Returns what the run is.
        of_stage: Loggers are a stage's own, and end with it.

    Attributes:
        loggers: Those in use.
        dashboards: Those of them that show more than numbers.
    """

    def __init__(self, facts: Callable[[], Facts], *, of_stage: bool) -> None:
        self.facts = facts
        self.of_stage = of_stage
        self.loggers: list[Logger] = []
        self.dashboards: list[Dashboard[Any]] = []

    def begin(self, loggers: Sequence[Logger]) -> list[Logger]:
        """Start loggers and say what the run is; return those that could be started."""
        if self.loggers and not self.of_stage:
            return self.loggers
        self.loggers = opened(loggers)
        if is_first_process():
            self.dashboards = [board for each in self.loggers if (board := dashboard_of(each))]
        facts = self.facts() if self.dashboards else None
        for dashboard in self.dashboards:
            assert facts is not None
            with dashboard.harmless("describe the run"):
                dashboard.describe(facts)
        return self.loggers

    def stage_over(self, values: Mapping[str, Any], *, last: bool) -> None:
        """Say what a stage came to; end loggers of its own, unless the run's result will follow."""
        if not self.of_stage:
            return
        for dashboard in self.dashboards:
            with dashboard.harmless("keep a summary"):
                # the last stage's is its run's, and hyper-parameters are written once
                if not last:
                    dashboard.summary({**values, **dashboard.headline})
        if not last:
            self.end()

    def run_over(
        self,
        result: Mapping[str, Any],
        values: Mapping[str, Any],
        picture: Path,
        files: Callable[[], Sequence[Path]] | None,
    ) -> None:
        """Say what the whole run came to, and end all loggers.

        Args:
            result: The content of ``result.json``.
            values: What the last stage came to.
            picture: ``summary.png``.
            files: Makes what is kept as an artifact, where that is wanted.
        """
        for logger in self.loggers:
            logger.log_metrics({f"result/{k}": result[k] for k in LOGGED_RESULTS})
        step = int(result.get("gradient_steps") or 0)
        for dashboard in self.dashboards:
            with dashboard.harmless("show the result"):
                dashboard.summary({**values, **scalars(result), **dashboard.headline})
            with dashboard.harmless("show summary.png"):
                pixels = np.asarray(Image.open(picture).convert("RGB"))
                dashboard.pictures("summary", [Picture(pixels, "the whole run")], step)
            if files is not None:
                with dashboard.harmless("keep the files"):
                    about = {key: result.get(key) for key in DESCRIBED}
                    dashboard.artifact("subnetwork", files(), about)
        self.end()

    def end(self, *, failed: bool = False) -> None:
        """End all loggers."""
        boards = {id(dashboard.logger): dashboard for dashboard in self.dashboards}
        for logger in self.loggers:
            with harmless(logger, "end"):
                if id(logger) in boards:
                    boards[id(logger)].finish(failed=failed)
                else:
                    logger.finalize("failed" if failed else "success")
        self.loggers, self.dashboards = [], []
