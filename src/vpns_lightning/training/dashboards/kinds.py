"""The dashboards that show more than numbers: W&B, TensorBoard and MLflow."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from vpns_lightning.training.dashboards.facts import PLAIN, Facts
from vpns_lightning.training.dashboards.guarding import harmless
from vpns_lightning.training.dashboards.pictures import Layer, Picture, density_picture, sheet

Kind = TypeVar("Kind", bound=Logger)
PER_LAYER = "/sparsity/"  # in the names of metrics that the table of densities holds


class Dashboard(ABC, Generic[Kind]):
    """A logger that can be told more than numbers.

    Args:
        logger: The logger, started.

    Attributes:
        config: Of the run, flat.
        headline: Names of the run, as a grid calls its method; they hold in summaries too.
    """

    def __init__(self, logger: Kind) -> None:
        self.logger = logger
        self.config: dict[str, Any] = {}
        self.headline: dict[str, Any] = {}
        self._without_layers()

    def harmless(self, what: str) -> AbstractContextManager[None]:
        """Return what turns a failure of the logger into a warning."""
        return harmless(self.logger, what)

    def describe(self, facts: Facts) -> None:
        """Say what the run is, before its first step."""
        self.config, self.headline = facts.config, facts.headline

    @abstractmethod
    def pictures(self, key: str, pictures: Sequence[Picture], step: int) -> None:
        """Show pictures."""

    def densities(self, key: str, layers: Sequence[Layer], step: int) -> None:
        """Show the density of all layers in one chart."""
        self.pictures(key, [density_picture(layers, f"{key}, step {step}")], step)

    @abstractmethod
    def summary(self, values: Mapping[str, Any]) -> None:
        """Keep what the run came to: one value a name."""

    def artifact(self, name: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Keep files, where the dashboard can."""

    def finish(self, *, failed: bool = False) -> None:
        """End the run there."""
        if not failed:
            self.logger.finalize("success")

    def _without_layers(self) -> None:
        """Drop the series of single layers, which would be as many panels as there are layers."""
        log = self.logger.log_metrics

        @wraps(log)
        def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
            log({k: v for k, v in metrics.items() if PER_LAYER not in k}, step)

        if not hasattr(log, "without_layers"):
            log_metrics.without_layers = True  # type: ignore[attr-defined]  # a mark on a function
            setattr(self.logger, "log_metrics", log_metrics)  # noqa: B010  # mypy knows a method


class WandbDashboard(Dashboard[WandbLogger]):
    """W&B: flat config, tags, images with captions, charts made of tables, artifacts."""

    def describe(self, facts: Facts) -> None:
        """Set config and tags, and what a run that is killed should have in its summary."""
        super().describe(facts)
        run = self.logger.experiment
        run.config.update(facts.config, allow_val_change=True)
        run.tags = tuple(dict.fromkeys([*(run.tags or ()), *facts.tags]))
        run.summary.update(facts.headline)

    def pictures(self, key: str, pictures: Sequence[Picture], step: int) -> None:
        """Log images with captions."""
        captions = [picture.caption for picture in pictures]
        self.logger.log_image(key, [p.pixels for p in pictures], step, caption=captions)

    def densities(self, key: str, layers: Sequence[Layer], step: int) -> None:
        """Log one chart, which W&B draws from one table."""
        import wandb

        table = wandb.Table(columns=["layer", "density"], data=[list(layer) for layer in layers])
        chart = wandb.plot.bar(table, "layer", "density", title=f"{key} (fraction kept)")
        self.logger.log_metrics({key: chart}, step)  # type: ignore[dict-item]  # W&B takes charts

    def summary(self, values: Mapping[str, Any]) -> None:
        """Update the run's summary."""
        self.logger.experiment.summary.update(dict(values))

    def artifact(self, name: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Log files as one artifact; W&B reads them where they are."""
        import wandb

        run = self.logger.experiment
        artifact = wandb.Artifact(f"{name}-{run.id}", type="subnetwork", metadata=dict(facts))
        for file in files:
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)

    def finish(self, *, failed: bool = False) -> None:
        """End the run, so that the next stage starts one of its own."""
        super().finish(failed=failed)
        self.logger.experiment.finish(exit_code=int(failed))


class TensorBoardDashboard(Dashboard[TensorBoardLogger]):
    """TensorBoard: images, the config as text, and hyper-parameters with what they came to."""

    def describe(self, facts: Facts) -> None:
        """Write the config as a table."""
        super().describe(facts)
        rows = [f"| {key} | {_cell(value)} |" for key, value in facts.config.items()]
        self.logger.experiment.add_text("config", "\n".join(["| key | value |", "|-|-|", *rows]))

    def pictures(self, key: str, pictures: Sequence[Picture], step: int) -> None:
        """Add one image; several on a sheet, since TensorBoard shows no captions."""
        one = pictures[0] if len(pictures) == 1 else sheet(pictures)
        self.logger.experiment.add_image(key, one.pixels, step, dataformats="HWC")

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write the hyper-parameters with the final metrics."""
        final = {f"final/{k}": float(values[k]) for k in FINAL if values.get(k) is not None}
        plain = {k: v if isinstance(v, PLAIN) else str(v) for k, v in self.config.items()}
        self.logger.log_hyperparams(plain, metrics=final)
        self.logger.save()


class MLFlowDashboard(Dashboard[MLFlowLogger]):
    """MLflow: parameters, tags, images and files as artifacts of its run."""

    def describe(self, facts: Facts) -> None:
        """Set parameters and tags; a run that goes on keeps the parameters it has begun with."""
        super().describe(facts)
        client, run_id = self.logger.experiment, str(self.logger.run_id)
        client.update_run(run_id, "RUNNING")
        known = client.get_run(run_id).data.params  # MLflow refuses to change one
        self.logger.log_hyperparams({k: v for k, v in facts.config.items() if k not in known})
        for key, value in facts.headline.items():
            self.logger.experiment.set_tag(self.logger.run_id, key, value)

    def pictures(self, key: str, pictures: Sequence[Picture], step: int) -> None:
        """Keep one image; several on a sheet."""
        one = pictures[0] if len(pictures) == 1 else sheet(pictures)
        name = f"pictures/{key}/{step:08d}.png"
        self.logger.experiment.log_image(self.logger.run_id, one.pixels, name)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Log numbers as metrics, words as tags."""
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, (int, float))}
        self.logger.log_metrics({f"final/{key}": value for key, value in numbers.items()})
        # a name with a slash would be a folder in a store of files, and config has it anyway
        for key in (key for key in values if key not in numbers and "/" not in key):
            self.logger.experiment.set_tag(self.logger.run_id, key, values[key])

    def artifact(self, name: str, files: Sequence[Path], facts: Mapping[str, Any]) -> None:
        """Keep files in a folder of the run's artifacts."""
        for file in files:
            self.logger.experiment.log_artifact(self.logger.run_id, str(file), name)


FINAL = ("test_accuracy", "test_accuracy_plain", "sparsity")


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")


def dashboard_of(logger: Logger) -> Dashboard[Any] | None:
    """Return the dashboard of a logger that has been started, None for one of numbers alone."""
    kinds: dict[type[Logger], type[Dashboard[Any]]] = {
        WandbLogger: WandbDashboard,
        TensorBoardLogger: TensorBoardDashboard,
        MLFlowLogger: MLFlowDashboard,
    }
    kind = next((made for known, made in kinds.items() if isinstance(logger, known)), None)
    return None if kind is None else kind(logger)
