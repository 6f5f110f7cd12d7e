"""Loggers: a CSV that survives resuming, and W&B that never stops a run."""

import csv
import os
import shlex
import uuid
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from vpns_lightning.base.files import whole_file, write_text, writing
from vpns_lightning.base.wandb_settings import wandb_offline_reason, wandb_settings
from vpns_lightning.runs.grid_cell import grid_record
from vpns_lightning.runs.metrics import COLUMNS, read_metrics
from vpns_lightning.stages import STAGES
from vpns_lightning.training.mlflow_run import mlflow_arguments


class MetricsCSV(Logger):
    """Append one line a metric to ``metrics.csv``: stage, epoch, step, metric, value.

    Long instead of wide: stages have different metrics, and a killed run leaves whole lines.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """Return no name: the file lies in the run folder itself."""
        return ""

    @property
    def version(self) -> str:
        """Return no version."""
        return ""

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Keep none: ``config.yaml`` is the record."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append all metrics that name their stage."""
        rows = [
            (name.split("/")[0], int(metrics.get("epoch", 0)), step, name.split("/", 1)[1], value)
            for name, value in metrics.items()
            if "/" in name
        ]
        new = not self.path.exists()
        with writing(self.path), self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            writer.writerows(rows)

    @rank_zero_only
    def forget(self, stage: str, epoch: int) -> None:
        """Drop the lines of ``stage`` from ``epoch`` on, which a resumed run writes again."""
        if not self.path.exists():
            return
        rows = [r for r in read_metrics(self.path) if r["stage"] != stage or r["epoch"] < epoch]
        with whole_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def wandb_offline(offline: bool, run_dir: Path) -> bool:
    """Return whether W&B runs offline, and say why where nobody asked for it.

    Args:
        offline: What the config says.
        run_dir: The run folder, for the way to send the run later.
    """
    reason = None if offline else wandb_offline_reason()
    if reason:
        rank_zero_warn(
            f"W&B runs offline because {reason}; send the run later with "
            f"`wandb sync {shlex.quote(str(run_dir))}/wandb/offline-run-*`"
        )
    return offline or bool(reason)


def logger_arguments(
    class_path: str, init_args: Mapping[str, Any], run_dir: Path, stage: str
) -> dict[str, Any]:
    """Return the arguments of a logger of one stage: where it writes, and under which names.

    What the config asks for holds. Besides, every stage has a folder or a run of its own.

    Args:
        class_path: Of the logger.
        init_args: What the config says.
        run_dir: The run folder.
        stage: The stage.
    """
    kind = class_path.rpartition(".")[2]
    if kind == "WandbLogger":
        return wandb_arguments(init_args, run_dir, stage)
    if kind == "MLFlowLogger":
        return mlflow_arguments(init_args, run_dir, stage)
    given = {name: value for name, value in init_args.items() if value is not None}
    cell = grid_record()
    if kind not in {"TensorBoardLogger", "CSVLogger"}:
        return dict(init_args)
    folder = f"{cell.name}/{run_dir.name}" if cell else run_dir.name
    name = given.get("name", LIGHTNING_NAME)
    names = {
        "name": folder if name == LIGHTNING_NAME else name,
        "version": f"{given['version']}-{stage}" if "version" in given else stage,
    }
    if kind == "CSVLogger":
        # one that finds its folder in use empties it, and a resumed stage would lose its begin
        names["version"] = _unused(Path(given["save_dir"]) / names["name"], names["version"])
    return {**init_args, **names}


LIGHTNING_NAME = "lightning_logs"  # of loggers that nobody named


def _unused(folder: Path, name: str) -> str:
    count, free = 1, name
    while (folder / free).exists():
        count += 1
        free = f"{name}-{count}"
    return free


def wandb_arguments(init_args: Mapping[str, Any], run_dir: Path, stage: str) -> dict[str, Any]:
    """Return the arguments of a ``WandbLogger`` that resumes the W&B run of a stage.

    Every stage is a run of its own, the stage its job type; runs of one command share the group.

    Args:
        init_args: What the config says.
        run_dir: The run folder; W&B's files, unless the config says where, and the run's id stay
            in it.
        stage: The stage.
    """
    args = {name: value for name, value in init_args.items() if value is not None}
    cell = grid_record()
    id_file = run_dir / "wandb_id.txt"
    if not id_file.is_file():
        write_text(id_file, args.get("id", uuid.uuid4().hex[:8]) + "\n")
    run = f"{id_file.read_text().strip()}-{stage}"
    if "WANDB_SWEEP_ID" in os.environ:
        run = _id_in_sweep(run, stage)
    offline = bool(args.pop("offline", False))
    asked = args.get("save_dir", ".")
    return {
        "group": cell.name if cell else run_dir.name,
        "job_type": stage,
        # a config's key that is not given is None, which would begin an interrupted run anew
        "resume": "allow",
        **args,
        "settings": {**wandb_settings(offline=offline), **args.get("settings", {})},
        # not the logger's own switch, which would set a variable for the whole process, and which
        # refuses a run without network that was asked to send checkpoints
        **({"offline": False, "mode": "offline"} if offline else {}),
        "name": f"{args.get('name', run_dir.name)}-{stage}",
        "save_dir": str(run_dir) if asked == "." else str(asked),
        "id": run,
    }


def _id_in_sweep(run: str, stage: str) -> str:
    """Return the id of a stage's run in a sweep: of tuning, that which the agent waits for.

    There W&B drops an id that it is given and takes the environment's, which it reads once.
    """
    import wandb  # only here is more needed than Lightning's logger

    agent = os.environ.get("WANDB_RUN_ID", run)
    for name in STAGES:
        agent = agent.removesuffix(f"-{name}")
    os.environ["WANDB_RUN_ID"] = agent if stage == "tune" else f"{agent}-{stage}"
    wandb.teardown()
    return os.environ["WANDB_RUN_ID"]
