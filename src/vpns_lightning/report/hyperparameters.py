"""Table A2: what each method trains with, read from config files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.panels import Cell, Table

BASE = "resnet18_cifar100.yaml"
OVERLAYS = "pruner"
# pruners whose name changes with a prompt: with one, without one
OWN = {
    "Hydra": ("VPNs", "HYDRA"),
    "StructuredVPNs": ("VPNs (structured)", "HYDRA (structured)"),
    "Stored": ("masks of another run", "masks of another run"),
}
STAGES = ("warmup", "find", "tune")
COLUMNS = ("method", "stage", "epochs", "optimiser", "learning rate", "weight decay", "prompt")


def hyperparameter_table(configs: Path) -> Table:
    """Return one row for each method and stage.

    Args:
        configs: The folder of configs: a base and the overlays of its ``pruner`` folder.

    Raises:
        UserError: The folder lacks the base, or a file is no YAML.
    """
    base = read_yaml(configs / BASE)
    rows = list(_rows("VPNs", base, finds=True))
    for path in sorted((configs / OVERLAYS).glob("*.yaml")):
        overlay = read_yaml(path)
        merged = overlaid(base, overlay)
        # an overlay says epochs of finding exactly where its pruner trains in them
        rows += _rows(_pruner(merged), merged, finds="epochs" in (overlay.get("find") or {}))
    named = Path(configs.name)  # not where this installation has it
    note = f"From {named / BASE} and the overlays of {named / OVERLAYS}."
    return Table("Hyper-parameters", COLUMNS, tuple(rows), note)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a config file.

    Raises:
        UserError: It is missing or no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError:
        raise UserError(f"{path} is missing: name the folder of configs with --configs") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} is no YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"config file {path} holds no mapping of keys to values")
    for key in ("network", "find", *STAGES):
        if not isinstance(content.get(key) or {}, dict):
            raise UserError(f"config file {path}: {key} must be a mapping, got {content[key]!r}")
    return content


def overlaid(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with another laid over it: mappings merge, classes replace."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        same = both and old.get("class_path") == value.get("class_path")  # type: ignore[union-attr]  # both are mappings
        merged[key] = overlaid(old, value) if same else value  # type: ignore[arg-type]  # likewise
    return merged


def _pruner(config: Mapping[str, Any]) -> str:
    given = (config.get("find") or {}).get("pruner") or "unknown"
    name = str(given.get("class_path") if isinstance(given, Mapping) else given).rpartition(".")[2]
    prompted = (config.get("network") or {}).get("prompt") is not None
    if name in OWN:
        return OWN[name][0 if prompted else 1]
    return f"VPNs w. {name}" if prompted else name


def _rows(method: str, config: Mapping[str, Any], *, finds: bool) -> Iterable[tuple[Cell, ...]]:
    prompt = (config.get("network") or {}).get("prompt")
    for stage in STAGES:
        section: Mapping[str, Any] = config.get(stage) or {}
        epochs = section.get("epochs", 0)
        if stage == "warmup" and not epochs:
            continue
        if not epochs or (stage == "find" and not finds):
            values: Sequence[Any] = ("none", "", "", "")
        else:
            optimizer = section.get("optimizer") or {}
            options = optimizer.get("init_args") or {}
            name = str(optimizer.get("class_path", "default")).rpartition(".")[2]
            values = (epochs, name, options.get("lr", ""), options.get("weight_decay", ""))
        yield tuple(Cell(_text(v)) for v in (method, stage, *values, _show(prompt)))


def _show(prompt: Any) -> str:  # any YAML
    if not isinstance(prompt, Mapping):
        return "none" if prompt is None else str(prompt)
    options = prompt.get("init_args") or {}
    inner = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{str(prompt.get('class_path')).rpartition('.')[2]} ({inner})"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
