"""``vpns fit``: warm-up, mask finding and tuning from one config."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer, seed_everything

from vpns_lightning.base.processes import is_first_process
from vpns_lightning.base.seeds import check_seed
from vpns_lightning.commands.parsing import import_plugins, parse
from vpns_lightning.commands.trainer_section import machine_of
from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier, specify
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.loading import instantiate
from vpns_lightning.sparsity import check_sparsity
from vpns_lightning.stages import MaskFinding, PromptTuning, SubnetworkTuning
from vpns_lightning.training.machine import ELSEWHERE, check_precision
from vpns_lightning.training.pipeline import fit_stages


def fit_parser() -> ArgumentParser:
    """Return the parser of ``vpns fit``; its keys are those of a config file."""
    parser = ArgumentParser(
        prog="vpns fit",
        description=(
            "Find a sparse subnetwork and its visual prompt, then tune both. Several --config "
            "files and options may follow each other, later ones win. The same command resumes an "
            "interrupted run. --plugins FILE.py[,...] imports your own pruners, prompts or data."
        ),
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file; may be given several times")
    parser.add_argument("--seed_everything", type=int, default=7, help="seed of everything random")
    parser.add_subclass_arguments(ImageData, "data", skip={"seed"}, required=True)
    parser.add_class_arguments(PromptedClassifier, "network")
    parser.add_class_arguments(SubnetworkTuning, "warmup", skip={"name"})
    parser.add_class_arguments(MaskFinding, "find")
    parser.add_class_arguments(SubnetworkTuning, "tune", skip={"name"})
    parser.add_class_arguments(PromptTuning, "prompt_tuning")
    parser.add_class_arguments(
        Trainer, "trainer", instantiate=False, fail_untyped=False, skip=set(ELSEWHERE)
    )
    _counts_before_shares(parser)
    parser.link_arguments("data.num_classes", "network.num_classes", apply_on="instantiate")
    for stage in ("warmup", "find", "tune", "prompt_tuning"):
        parser.link_arguments("network", f"{stage}.network", apply_on="instantiate")
    parser.set_defaults({"warmup.epochs": 0, "prompt_tuning.epochs": 0})
    return parser


def _counts_before_shares(parser: ArgumentParser) -> None:
    """Let a whole number be a count of batches, never a share, where a type allows both.

    ``typing`` keeps one of ``Optional[Union[int, float]]`` and ``Optional[Union[float, int]]`` for
    the whole process, the one made first; with the latter, which other packages make, the parser
    would read ``limit_train_batches: 1`` as the whole epoch.
    """
    for action in parser._actions:
        kinds = get_args(getattr(action, "_typehint", None))
        if {int, float} <= set(kinds):
            others = [kind for kind in kinds if kind not in (int, float)]
            setattr(action, "_typehint", Union[int, float, *others])  # noqa: B010


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns fit``.

    Raises:
        UserError: The config is wrong, or the run folder holds another run.
    """
    parser = fit_parser()
    config = parse(parser, import_plugins(arguments))
    check_sparsity(config.find.sparsity)
    check_precision(config.trainer.precision)
    check_seed(config.seed_everything)
    folder = RunFolder(config.trainer.default_root_dir or default_folder(config))
    record = as_record(parser, config)
    if finished(folder, record):
        return
    machine = machine_of(config.trainer, folder)
    config.trainer = Namespace()  # type: ignore[no-untyped-call]
    seed_everything(config.seed_everything, workers=True, verbose=False)
    objects = instantiate(parser, config)
    warmup = objects.warmup if objects.warmup.epochs else None
    if warmup is not None:
        warmup.name = "warmup"
    fit_stages(
        objects.network,
        objects.data,
        find=objects.find,
        tune=objects.tune,
        warmup=warmup,
        prompt_tuning=objects.prompt_tuning if objects.prompt_tuning.epochs else None,
        run_dir=str(folder.path),
        trainer=machine,
        seed=config.seed_everything,
        config=record,
    )


def default_folder(config: Namespace) -> str:
    """Return ``runs/<backbone>_<data>_<pruner>_s<sparsity>_seed<seed>``.

    Raises:
        UserError: The backbone is not said as it should be.
    """
    names = (
        slug(str(specify(config.network.backbone))),
        _last(config.data.class_path),
        _last(config.find.pruner.class_path),
    )
    level = f"s{100 * config.find.sparsity:g}"
    return str(Path("runs") / "_".join([*names, level, f"seed{config.seed_everything}"]).lower())


def slug(text: str) -> str:
    """Return a name as part of a folder's, which holds no slash and no quotes."""
    return "-".join(re.findall(r"[\w.]+", text))


def _last(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def as_record(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return the config as plain values, without the names of the files it came from."""
    record: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))
    record.pop("config", None)
    # the same backbone is said the same, however its arguments were given
    record["network"]["backbone"] = specify(record["network"]["backbone"]).plain()
    return record


def finished(folder: RunFolder, record: dict[str, Any]) -> bool:
    """Return whether the folder holds the finished run of this very config, and say so.

    Raises:
        UserError: It holds a run of another config.
    """
    if folder.config.is_file():
        folder.keep_config(record)
    result = folder.read_result()
    if result is None:
        return False
    if is_first_process():
        print(
            f"{folder.path} is finished: {result.method}, sparsity {result.sparsity:.4f}, "
            f"test accuracy {result.test_accuracy:.4f} ({folder.result})"
        )
    return True
