"""Optimisers and schedules of all stages, tried before any stage trains."""

import warnings

from torch.optim.lr_scheduler import ReduceLROnPlateau

from vpns_lightning.base.errors import UserError
from vpns_lightning.stages.base import Stage
from vpns_lightning.stages.steps import refusing


def rehearse(stage: Stage) -> None:
    """Build an optimiser of a stage, and a schedule that runs to its end; nothing is trained.

    Raises:
        UserError: One of them refuses its arguments, the network's parameters or the epochs, or
            the schedule waits for a metric.
    """
    if not stage.epochs:
        return
    with refusing(f"{stage.name}.optimizer"):
        optimizer = stage.build_optimizer(stage.parameter_groups())
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
