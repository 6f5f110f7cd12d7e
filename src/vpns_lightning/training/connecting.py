"""The processes of a run: how they may be started, how many there are, and what connects them."""

import os
from datetime import timedelta

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from vpns_lightning.base.errors import UserError
from vpns_lightning.stages import refusing
from vpns_lightning.training.machine import NOT_FITTING, Machine, quiet_lightning

# every process holds the whole network, and is one that comes back from training with it
STRATEGIES = (
    *("auto", "ddp"),
    *("ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"),
)
# how long a process waits for the others: the first may be decoding a data set into its cache, or
# measuring a network, and Lightning's half an hour is too short for ImageNet
PATIENCE = timedelta(hours=6)
_CONNECTING = ("accelerator", "devices", "num_nodes", "strategy", "plugins")


def check_strategy(strategy: object) -> None:
    """Refuse strategies under which masks and scores would not be whole, or not come back.

    Args:
        strategy: A name, or a strategy object; None leaves the choice to Lightning.

    Raises:
        UserError: It is another one than DDP or a single device.
    """
    if strategy is None or strategy in STRATEGIES:
        return
    named = repr(strategy if isinstance(strategy, str) else type(strategy).__name__)
    if type(strategy) in {DDPStrategy, SingleDeviceStrategy}:
        # those of "ddp_fork" and "ddp_spawn" are of DDP's class, and known by their launcher
        if not getattr(getattr(strategy, "launcher", None), "is_interactive_compatible", False):
            return
        named += " started by fork or spawn"
    raise UserError(
        f"trainer.strategy {named} is not allowed, since every process has to hold the whole "
        "network and come back from training with it: use ddp; allowed: "
        f"{', '.join(STRATEGIES)}, DDPStrategy"
    )


def be_patient(trainer: pl.Trainer, asked: object) -> None:
    """Check the strategy of a Trainer; let its processes wait for each other for hours.

    A strategy that was asked for by a name has no time limit of its own. ``DDPStrategy(timeout=)``
    is left as it is.

    Args:
        trainer: The Trainer.
        asked: What its ``strategy`` was given as.

    Raises:
        UserError: The strategy is not allowed.
    """
    check_strategy(trainer.strategy)
    if isinstance(trainer.strategy, DDPStrategy) and (asked is None or isinstance(asked, str)):
        # Lightning makes the strategy of a name; only an object of one's own takes a timeout, and
        # which one is needed is known once Lightning has counted devices
        trainer.strategy._timeout = PATIENCE


def _check_started(strategy: DDPStrategy, processes: int) -> None:
    """Refuse to wait for processes of a SLURM job that nobody has started.

    Raises:
        UserError: The script of the job has called this command without ``srun``, which alone
            numbers its steps.
    """
    in_slurm = isinstance(strategy.cluster_environment, SLURMEnvironment)
    # the same number under its present and its older name
    in_step = any(key in os.environ for key in ("SLURM_STEP_ID", "SLURM_STEPID"))
    if in_slurm and processes > 1 and not in_step:
        raise UserError(
            f"this SLURM job is to have {processes} processes, but only this one was started: put "
            "srun before the command in its script"
        )


def connect(machine: Machine) -> int:
    """Return how many processes a run has; connect those that a cluster has started.

    So that all of them can do what the first one finds in the run folder. Those that Lightning
    itself starts begin later, while the first waits for them, and so find the same.

    Args:
        machine: The Trainer's arguments.

    Raises:
        UserError: The strategy is not allowed, or does not fit the machine.
    """
    given = {**machine.options, **machine.connecting()}
    asked = {key: value for key, value in given.items() if key in _CONNECTING}
    check_strategy(asked.get("strategy"))
    if asked.get("devices") == 1 and asked.get("num_nodes", 1) == 1:
        return 1
    with quiet_lightning(), refusing("trainer", NOT_FITTING):
        trainer = pl.Trainer(
            **asked,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        be_patient(trainer, asked.get("strategy"))
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy) and not isinstance(
            strategy.cluster_environment, LightningEnvironment
        ):
            _check_started(strategy, trainer.world_size)
            strategy.setup_environment()
    return trainer.world_size
