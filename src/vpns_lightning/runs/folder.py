"""A run folder: what is in it, who may use it, and whether a config still fits it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import lock, sweep_temporaries, write_text
from vpns_lightning.base.renamed import RENAMED_STAGES, with_present_stages
from vpns_lightning.runs.record import RunRecord, read_record

SHOWN = 10  # differing keys that a refusal names
# what may differ when a run is resumed: where and how it is computed, not what
MACHINE_KEYS = (
    "trainer",
    "network.compile",
    *(
        f"data.init_args.{key}"
        for key in ("root", "num_workers", "cache", "cache_limit", "cache_dir", "download")
    ),
)
# sections of the Trainer whose parts act on what is learned, but for parts that only look or say
METHOD_PARTS = ("callbacks", "plugins")
WATCHING = (
    *("RichProgressBar", "TQDMProgressBar", "RichModelSummary", "ModelSummary", "Timer"),
    *("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor"),
)
MACHINE_MODULES = (".environments.", ".io.")


PROMPTS = "prompts.safetensors"
# a network as the Hub holds it: how it is built, and its state
HUB_CONFIG = "config.json"
HUB_MODEL = "model.safetensors"


class RunFolder:
    """Paths of one run; the files say what is done.

    ``result.json``: everything. ``handoff.safetensors``: the stage its metadata names, and those
    before. ``<stage>/last.ckpt``: that stage up to some epoch. ``find/handoff.safetensors``: the
    network after finding, to tune from again.

    Args:
        path: The folder, made if absent.

    Raises:
        UserError: It cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.handoff = self.path / "handoff.safetensors"
        self.found = self.path / "find" / "handoff.safetensors"
        self.masks = self.path / "masks.safetensors"
        self.metrics = self.path / "metrics.csv"
        self.prompts = self.path / PROMPTS
        self.summary = self.path / "summary.png"
        self.result = self.path / "result.json"

    def checkpoint(self, stage: str) -> Path:
        """Return the checkpoint path of a stage, under its old name where it was begun so."""
        for old, new in RENAMED_STAGES.items():
            if new == stage and (self.path / old).is_dir():
                return self.path / old / "last.ckpt"
        return self.path / stage / "last.ckpt"

    def make(self) -> None:
        """Create the folder and see that it can be written.

        Raises:
            UserError: It cannot.
        """
        write_text(self.path / ".writable", "")
        (self.path / ".writable").unlink()

    def read_result(self) -> RunRecord | None:
        """Return ``result.json``, or None while the run is not finished.

        Raises:
            UserError: The file cannot be read, or is damaged.
        """
        if not self.result.is_file():
            return None
        try:
            return read_record(self.result)
        except OSError as error:
            raise UserError(f"{self.result} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UserError(
                f"{self.result} is damaged ({error}): delete it, and the command that made it "
                "makes it again"
            ) from None

    def read_config(self) -> dict[str, Any]:
        """Return the stored config.

        Raises:
            UserError: There is none, since no run was started here, or it is damaged.
        """
        if not self.config.is_file():
            raise UserError(f"{self.path} is no run folder: it has no config.yaml")
        config = None
        try:
            text = self.config.read_bytes()
        except OSError as error:
            raise UserError(f"{self.config} cannot be read: {error.strerror}") from None
        with suppress(ValueError, yaml.YAMLError, RecursionError):
            config = yaml.safe_load(text)
        if not isinstance(config, dict):
            raise UserError(
                f"{self.config} is damaged, so what was run here is not known: delete the folder "
                "to run it again"
            )
        return with_present_stages(config)

    def keep_config(self, config: Mapping[str, Any]) -> None:
        """Store the config of a new run, or compare it with that of the run begun here.

        Raises:
            UserError: It differs in anything but the machine; keys and both values are named.
        """
        if not self.config.is_file():
            write_text(self.config, yaml.safe_dump(dict(config), sort_keys=False))
            return
        differing = config_differences(self.read_config(), config)
        if differing:
            shown = "; ".join(differing[:SHOWN])
            more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
            raise UserError(
                f"{self.path} holds a run with another config: {shown}{more}. Choose "
                "another trainer.default_root_dir, or repeat the old command to resume that run"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the lock goes with the process, however it ends.

        Raises:
            UserError: Another process holds it.
        """
        self.make()
        with lock(self.path / ".lock") as held:
            if not held:
                raise UserError(
                    f"another process is running in {self.path}: wait for it, or choose another "
                    "trainer.default_root_dir"
                )
            sweep_temporaries(self.path)
            yield

    def in_use(self) -> bool:
        """Return whether another process holds the folder."""
        if not (self.path / ".lock").exists():
            return False
        with lock(self.path / ".lock") as held:
            return not held


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``key: old -> new`` for every leaf that differs, the machine's keys left out."""
    before, after = method_leaves(old), method_leaves(new)
    keys = sorted(differing_keys(before, after))
    return [f"{key}: {before.get(key)!r} there, {after.get(key)!r} now" for key in keys]


def differing_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the keys of two mappings of leaves that differ, in their order."""
    return [key for key in {**before, **after} if not _agree(key, before, after)]


def _agree(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether a key is the same; off is the same as an option that was not there yet."""
    if key in before and key in after:
        return bool(before[key] == after[key])
    value = {**before, **after}[key]
    return value is None or value is False


def method_leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key to value of every leaf, the machine's keys left out."""
    leaves = {key: value for key, value in _flat(config).items() if not _is_machine(key)}
    return leaves | {f"trainer.{key}": parts for key, parts in method_parts(config).items()}


def method_parts(config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return callbacks and plugins that may change what is learned, those kinds that there are.

    Whether a callback of one's own only looks cannot be known, so it counts.
    """
    trainer = config.get("trainer")
    found: dict[str, list[Any]] = {}
    for key in METHOD_PARTS:
        given = trainer.get(key) if isinstance(trainer, Mapping) else None
        parts = [part for part in (given if isinstance(given, list) else [given]) if part]
        parts = [part for part in parts if not _only_watches(part)]
        found |= {key: parts} if parts else {}
    return found


def _only_watches(part: object) -> bool:
    path = str(part.get("class_path") if isinstance(part, Mapping) else part)
    lightning = path.startswith(("lightning.", "pytorch_lightning.")) or "." not in path
    is_machine = any(module in path for module in MACHINE_MODULES)
    return lightning and (path.rpartition(".")[2] in WATCHING or is_machine)


def without_machine(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config without the keys that say where and how a run is computed."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if not _is_machine(name):
            inner = isinstance(value, Mapping)
            kept[key] = without_machine(value, f"{name}.") if inner else value
    return kept


def _is_machine(key: str) -> bool:
    return any(f"{key}.".startswith(f"{machine}.") for machine in MACHINE_KEYS)


def _flat(tree: object, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        leaves: dict[str, Any] = {}
        for key, value in tree.items():
            leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return leaves
    return {prefix: list(tree) if isinstance(tree, tuple) else tree}
