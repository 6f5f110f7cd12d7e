"""Optimisers and schedules of all stages, tried before any stage trains."""

import math
import warnings

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vpns_lightning.base.errors import UserError
from vpns_lightning.stages.base import Stage
from vpns_lightning.stages.steps import refusing
from vpns_lightning.stages.subnetwork_tuning import SubnetworkTuning

MOST_LR = 1e6  # beyond, float32 weights overflow within a few steps


def rehearse(stage: Stage) -> None:
    """Build an optimiser of a stage, and a schedule that runs to its end; nothing is trained.

    Raises:
        UserError: One of them refuses its arguments, the network's parameters or the epochs, the
            schedule waits for a metric, or a loss or an average does not fit the stage.
    """
    if not stage.epochs:
        return
    stage.objective.check(stage.name)
    if isinstance(stage, SubnetworkTuning) and stage.average is not None:
        stage.average.check(stage.name, stage.epochs)
    with refusing(f"{stage.name}.optimizer"):
        optimizer = stage.build_optimizer(stage.parameter_groups())
    _check_numbers(stage.name, optimizer)
    with warnings.catch_warnings(), refusing(f"{stage.name}.lr_scheduler"):
        warnings.simplefilter("ignore")  # that no optimiser step came before
        scheduler = stage.make_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                f"{stage.name}.lr_scheduler: ReduceLROnPlateau waits for a metric, and no stage "
                "looks at one: use a schedule of epochs, such as MultiStepLR"
            )
        for _ in range(stage.period):
            scheduler.step()


def _check_numbers(stage: str, optimizer: Optimizer) -> None:
    """Refuse learning rates that cannot train, and options that are no numbers.

    Raises:
        UserError: A learning rate is not from 0 to 1e6, or another number is NaN or infinite.
    """
    for group in optimizer.param_groups:
        of = f"{stage}.optimizer" if "name" not in group else f"{stage}, {group['name']}"
        rate = float(group.get("lr", 0.0))  # an optimiser of one's own may have none
        if not 0 <= rate <= MOST_LR:
            raise UserError(f"{of}: a learning rate must be from 0 to {MOST_LR:,.0f}, got {rate:g}")
        for name, value in group.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{of}: {name} must be a number, got {value}")
