"""The order of the stages, their hand-offs, and what is left behind; only this file knows all."""

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import msgspec
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.processes import decided, is_first_process, say
from vpns_lightning.base.stopping import Stopped, StopRequest, listening
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.collecting import collect, stage_summary
from vpns_lightning.runs.evaluation import evaluate
from vpns_lightning.runs.folder import RunFolder, method_parts
from vpns_lightning.runs.grid_cell import share_warmup, take_warmup
from vpns_lightning.runs.handoff import load_network, read_about, save_masks
from vpns_lightning.runs.metrics import read_metrics
from vpns_lightning.runs.record import RunRecord, RunSoFar, as_plain, write_record
from vpns_lightning.runs.settings import as_before, outline
from vpns_lightning.runs.source import keep_found, source_of, take_found
from vpns_lightning.runs.summary import draw_summary, print_table
from vpns_lightning.stages import MaskFinding, PromptTuning, Stage, SubnetworkTuning, refusing
from vpns_lightning.training.callbacks import (
    AtomicCheckpointIO,
    CountProcesses,
    EpochCheckpoint,
    FreezeMasks,
    KeepPrompts,
    SignalGuard,
    SparsityMonitor,
    StageClock,
    StageProgress,
    callbacks_of,
    check_processes,
)
from vpns_lightning.training.connecting import be_patient, connect
from vpns_lightning.training.dashboards import (
    LOGGED_RESULTS,
    Facts,
    Shown,
    ShowStage,
    facts_of,
    subnetwork_files,
)
from vpns_lightning.training.loggers import MetricsCSV
from vpns_lightning.training.machine import (
    NOT_FITTING,
    Machine,
    as_list,
    check_channels,
    check_run,
    described,
    quiet_lightning,
    same_norms,
    tell_dense,
    tune_ddp,
    warn_of_slow_precision,
)


def fit_stages(
    network: PromptedClassifier,
    data: ImageData,
    *,
    find: MaskFinding,
    tune: SubnetworkTuning,
    warmup: SubnetworkTuning | None = None,
    prompt_tuning: PromptTuning | None = None,
    run_dir: str = "runs/latest",
    trainer: Mapping[str, Any] | Machine | None = None,
    seed: int = 7,
    config: Mapping[str, Any] | None = None,
    source: str | Path | None = None,
    other_processes: bool = False,
    log_artifacts: bool = False,
) -> dict[str, Any]:
    """Run all stages, or what is left of them; write the results.

    The run folder is the state: called again with the same arguments, a finished run returns at
    once and an interrupted one goes on where it was. On a CPU the end is bit-identical to that of
    an uninterrupted run.

    Args:
        network: The network; changed in place.
        data: Its data.
        find: Stage 1.
        tune: Stage 2.
        warmup: Dense training before stage 1.
        prompt_tuning: Learning the prompt alone after stage 2 (the pilot study).
        run_dir: The run folder.
        trainer: Arguments of the Lightning Trainer: the machine, not the method. Or a ``Machine``,
            which builds loggers and callbacks anew for each stage.
        seed: Of everything random.
        config: What to store as ``config.yaml``; a short description where None.
        source: Folder of a finished run to tune from: its warm-up and its finding are taken, and
            not run again. The end is that of a run which did all of it.
        other_processes: Go on with another number of processes than the run has begun with, which
            changes how many images a step takes.
        log_artifacts: Let W&B or MLflow keep masks, the exported network and its card too.

    Returns:
        The content of ``result.json``.

    Raises:
        UserError: Something in the input cannot work; nothing expensive has been done by then.
    """
    machine = Machine.of(trainer)
    stages = [stage for stage in (warmup, find, tune, prompt_tuning) if stage is not None]
    check_run(network, data, machine.options, stages)
    tell_dense(network)
    run = RunFolder(run_dir)
    origin = None
    if source is not None and not run.handoff.is_file():
        origin = source_of(source, network, data, find)
    if warmup is not None and origin is None and not run.handoff.is_file():
        check_channels(find, data)
    with ExitStack() as held:
        stop = held.enter_context(listening())
        processes = connect(machine)
        if is_first_process():
            held.enter_context(run.locked())
            stated = _config(run, config or outline(network, data, stages, seed))
            run.keep_config(stated if source is None else {**stated, "from": str(source)})
        done = decided(run.read_result)
        if done is not None:
            say(f"{run.path} is finished; see {run.result}")
            load_network(run.handoff, network)
            return as_plain(done)
        parts = method_parts(config or {"trainer": described(machine)})
        begun = _Run(
            *(run, network, data, machine, seed, stop, parts, origin, processes),
            other_processes,
            log_artifacts,
        )
        held.push(begun.end_others)
        return begun.through(stages, find)


def _config(run: RunFolder, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config in the form in which the run folder holds one, if it does."""
    stored = run.read_config() if run.config.is_file() else {}
    outlined_before = "init_args" not in stored.get("data", {"init_args": {}})
    return as_before(config) if outlined_before else config


@dataclass
class _Run:
    """One run in progress.

    Attributes:
        method_parts: Callbacks and plugins that may change what is learned.
        origin: The run whose masks are tuned, where it is another.
        processes: How many there are.
        other_processes: There may have been more or fewer until now.
        log_artifacts: Dashboards keep files of the finished run.
        launcher: What has started the others, where Lightning did.
    """

    run: RunFolder
    network: PromptedClassifier
    data: ImageData
    machine: Machine
    seed: int
    stop: StopRequest
    method_parts: dict[str, list[Any]]
    origin: RunFolder | None
    processes: int
    other_processes: bool
    log_artifacts: bool
    launcher: Any = None

    def __post_init__(self) -> None:
        data = self.data
        self.known = RunSoFar(seed=self.seed, dataset=data.name, input_size=data.input_size)
        self.csv = MetricsCSV(self.run.metrics)
        precision = self.machine.options.get("precision", "32-true")
        self.evaluate = partial(evaluate, data=data, precision=precision)
        self.shown = Shown(self._facts, of_stage=self.machine.loggers_of_stage)
        data.seed = self.seed

    def through(self, stages: Sequence[Stage], find: MaskFinding) -> dict[str, Any]:
        """Run the stages that are left, then write the results."""
        self.find = find
        self.last = stages[-1].name
        if is_first_process():
            read_metrics(self.run.metrics)  # what cannot be read is said before anything is trained
        left = self._resume(stages)
        if left and is_first_process():
            self.data.prepare_data()
            names = tuple(self.data.class_names)
            self.known = msgspec.structs.replace(self.known, class_names=names)
        for stage in left:
            self._fit(stage)
            if stage.name == "warmup" and is_first_process():
                share_warmup(self.run)
        return self._finish(find)

    def _facts(self) -> Facts:
        config = self.run.read_config()
        return facts_of(config, self.network, self.data, self.find, seed=self.seed)

    def end_others(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the processes that Lightning has started, if this one ends before its time.

        They would wait for it. As the first one alone writes, they have nothing to save. What shows
        the run ends last, since it may wait for a network.
        """
        together = isinstance(error, Stopped) and error.together
        if error is not None and self.launcher is not None and not together:
            self.launcher.kill(signal.SIGKILL)
        if error is not None:
            self.shown.end(failed=True)

    def _resume(self, stages: Sequence[Stage]) -> Sequence[Stage]:
        """Load the last hand-off, if there is one, and return the stages after it."""
        names = [stage.name for stage in stages]
        source = take_warmup(self.run) if "warmup" in names and is_first_process() else None
        if source is not None:
            say(f"stage 'warmup' is that of {source}, which has an equal one")
        if self.origin is not None and is_first_process():
            take_found(self.origin, self.run, self.seed)
        # known to all once the first process has copied what it takes
        finished = decided(self._stage_finished)
        if finished is None:
            return stages
        if finished not in names:
            raise UserError(
                f"{self.run.handoff} was written by stage {finished!r}, which this run has not: "
                f"its stages are {', '.join(names)}"
            )
        self.known = load_network(self.run.handoff, self.network).run_so_far()
        for trained in list(self.known.stages.values())[-1:]:
            if trained.processes and trained.gradient_steps and self.origin is None:
                check_processes(trained.processes, self.processes, allowed=self.other_processes)
        say(f"stage {finished!r} is done in {self.run.path}; going on after it")
        return stages[names.index(finished) + 1 :]

    def _stage_finished(self) -> str | None:
        """Return the last finished stage, None where there is none."""
        return read_about(self.run.handoff).stage if self.run.handoff.is_file() else None

    def _fit(self, stage: Stage) -> None:
        """Run one stage, from its checkpoint if there is one."""
        if stage.name == "tune" and is_first_process():
            keep_found(self.run)
        stage.seed = self.seed
        checkpoint = self.run.checkpoint(stage.name)
        resume = str(checkpoint) if decided(checkpoint.is_file) else None
        if resume:
            say(f"stage {stage.name!r} goes on from {checkpoint}")
        with quiet_lightning(), same_norms(self.network):
            # Lightning says in all of these that options do not fit each other or this machine
            with refusing("trainer", NOT_FITTING):
                trainer = self._trainer(stage)
            self.launcher = self.launcher or trainer.strategy.launcher
            # set here, not passed to fit: stages look at it before Lightning would set it
            trainer.ckpt_path = resume
            with refusing("trainer", (MisconfigurationException,)):
                trainer.fit(stage, datamodule=self.data, weights_only=True)
            (hand_off,) = (c for c in callbacks_of(trainer) if isinstance(c, FreezeMasks))
            if trainer.state.finished and not hand_off.done:
                # Lightning has set everything up but calls no hook of a training that is empty: of
                # no epochs, or killed between its last checkpoint and its hand-off
                stage.to(trainer.strategy.root_device)
                hand_off.on_train_end(trainer, stage)
        if not trainer.state.finished:
            raise KeyboardInterrupt
        trainer.strategy.checkpoint_io.teardown()
        if is_first_process():
            self.known = read_about(self.run.handoff).run_so_far()
            self.shown.stage_over(self._came_to(stage.name), last=stage.name == self.last)

    def _came_to(self, stage: str) -> dict[str, Any]:
        """Return what a finished stage has come to, in single values."""
        about = read_about(self.run.handoff)
        return stage_summary(about.run_so_far(), self.find, stage, about.sparsity or 0.0)

    def _trainer(self, stage: Stage) -> pl.Trainer:
        """Return a Trainer of this stage's own."""
        built = dict(self.machine.parts(stage.name))
        theirs = as_list(built.pop("callbacks", None))
        plugins = as_list(built.pop("plugins", None) or self.machine.options.get("plugins"))
        loggers = [self.csv, *self.shown.begin(as_list(built.pop("logger", None)))]
        boards = self.shown.dashboards
        options = {**self.machine.options, **built}
        checkpoint = self.run.checkpoint(stage.name)
        bar = options.pop("enable_progress_bar", True)
        own_bar = bar and not any(isinstance(callback, ProgressBar) for callback in theirs)
        trainer = pl.Trainer(
            **{
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                **options,
                "max_epochs": stage.epochs,
                "default_root_dir": str(checkpoint.parent),
                "logger": loggers,
                "enable_progress_bar": bar,
                "plugins": [*plugins, AtomicCheckpointIO()],
                "callbacks": [
                    *theirs,
                    _Forget(self.csv),
                    StageClock(),
                    SparsityMonitor(),
                    KeepPrompts(self.run.prompts),
                    *([StageProgress()] if own_bar else []),
                    SignalGuard(self.stop, checkpoint),
                    CountProcesses(self.other_processes),
                    FreezeMasks(self.run.handoff, self.known, self.evaluate, self.run.prompts),
                    *([ShowStage(boards, self.data)] if boards else []),
                    EpochCheckpoint(checkpoint),
                ],
            }
        )
        be_patient(trainer, options.get("strategy"))
        tune_ddp(trainer, stage)
        warn_of_slow_precision(trainer)
        return trainer

    def _finish(self, find: MaskFinding) -> dict[str, Any]:
        """Write masks, picture, table and, last, the result."""
        plain: dict[str, Any] = {}
        if is_first_process():
            about = read_about(self.run.handoff)
            run = about.run_so_far()
            result = collect(self.network, self.data, find, run, sys.argv)
            result = msgspec.structs.replace(result, parts=self.method_parts)
            save_masks(
                self.run.masks,
                self.network,
                run,
                method=result.method,
                stage=about.stage,
                sparsity=about.sparsity,
            )
            draw_summary(self.run, self.network, self.data, result)
            plain = as_plain(result)
            # a run that was killed right here writes these lines again
            self.csv.forget("result", 0)
            self.csv.log_metrics({f"result/{k}": plain[k] for k in LOGGED_RESULTS})
            self._show(result)
        self.csv.finalize("success")
        self.shown.end()
        if is_first_process():
            # last, since it is the mark of a finished run: what is not written by now never will be
            write_record(self.run.result, result)
            print_table(result, self.run)
        return plain

    def _show(self, result: RunRecord) -> None:
        """Let dashboards show what the run came to, also one that was killed just before."""
        if self.machine.loggers_of_stage and not self.shown.loggers:
            self.shown.begin(as_list(self.machine.parts(self.last).get("logger")))

        def files() -> list[Path]:
            return subnetwork_files(self.run, self.network, self.run.read_config(), result)

        self.shown.run_over(
            as_plain(result),
            self._came_to(self.last),
            self.run.summary,
            files if self.log_artifacts else None,
        )


class _Forget(pl.Callback):
    """Drop the logged lines that a resumed epoch will write again."""

    def __init__(self, csv: MetricsCSV) -> None:
        self.csv = csv

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget from the epoch at hand on."""
        assert isinstance(pl_module, Stage)
        self.csv.forget(pl_module.name, trainer.current_epoch)
