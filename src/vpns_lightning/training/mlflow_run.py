"""MLflow runs: one a stage, which an interrupted stage finds again by a tag."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from vpns_lightning.base.files import write_text
from vpns_lightning.runs.grid_cell import grid_record

TAG = "vpns_run"  # of MLflow runs: that of the run folder, and the stage


def mlflow_arguments(init_args: Mapping[str, Any], run_dir: Path, stage: str) -> dict[str, Any]:
    """Return the arguments of an ``MLFlowLogger`` that goes on with the MLflow run of a stage.

    Args:
        init_args: What the config says; a ``run_id`` of its own holds for all stages.
        run_dir: The run folder, in which the tag is kept.
        stage: The stage.
    """
    given = {name: value for name, value in init_args.items() if value is not None}
    cell = grid_record()
    id_file = run_dir / "mlflow_id.txt"
    begun = id_file.is_file()
    if not begun:
        write_text(id_file, uuid.uuid4().hex[:12] + "\n")
    tag = f"{id_file.read_text().strip()}-{stage}"
    tags = {"stage": stage, "group": cell.name if cell else run_dir.name, TAG: tag}
    run_id = given.get("run_id") or (_begun_run(given, tag) if begun else None)
    return {
        **init_args,
        "run_name": f"{given.get('run_name', run_dir.name)}-{stage}",
        "tags": {**tags, **(given.get("tags") or {})},
        **({"run_id": run_id} if run_id else {}),
    }


def _begun_run(given: Mapping[str, Any], tag: str) -> str | None:
    """Return the id of the run that bears a tag; None where the store has none, or cannot say."""
    try:
        from mlflow.tracking import MlflowClient  # an extra that few need

        # as Lightning's logger does, which has no public way to say what it will use
        store = given.get("tracking_uri") or f"file:{given.get('save_dir', './mlruns')}"
        client = MlflowClient(store)
        experiment = client.get_experiment_by_name(given.get("experiment_name", "lightning_logs"))
        if experiment is None or experiment.lifecycle_stage == "deleted":
            return None
        wanted = f"tags.{TAG} = '{tag}'"
        found = client.search_runs([experiment.experiment_id], filter_string=wanted, max_results=1)
    except Exception as error:  # of a service: it raises what it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        rank_zero_warn(
            f"MLflow does not say which run was interrupted ({reason}): a new one begins"
        )
        return None
    return str(found[0].info.run_id) if found else None
