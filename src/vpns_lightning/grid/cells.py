"""From a grid file to cells: each one run with a config, a readable name and a hash."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from glob import escape
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from vpns_lightning._version import __version__
from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.grid.file import GridFile, Method, read_grid
from vpns_lightning.runs.folder import RunFolder, config_differences, method_leaves

# options of `vpns fit` to its whole config as plain values
Resolve: TypeAlias = Callable[[Sequence[str]], dict[str, Any]]

# of the trainer, what changes the numbers a run learns with and not only its speed
LEARNING_KEYS = ("limit_train_batches", "precision")
# what the bits of a dense warm-up depend on besides network, data, warm-up and seed
WARMUP_TRAINER_KEYS = (
    *LEARNING_KEYS,
    *("accelerator", "strategy", "devices", "num_nodes", "deterministic", "benchmark"),
    *("sync_batchnorm", "plugins", "callbacks"),
)

LONGEST = 255  # bytes that a folder's name may have
MASKS = "--find.pruner.init_args.path"  # option that names the masks to tune
# config keys that a grid sets in every cell, and where their values come from
OF_THE_GRID = {
    "find.sparsity": "'sparsities', of the grid or of a method",
    "seed_everything": "'seeds', of the grid or of a method",
    "trainer.default_root_dir": "'runs', or --runs",
}
# what a grid may set: a word before the = of an option, and none that has another meaning
CONFIG_KEY = re.compile(r"[A-Za-z_][\w.]*\+?")
NOT_KEYS = ("plugins", "config", "c", "print_config", "help", "h")


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        grid: Name of the grid.
        name: Of the run folder, unique in the grid; ends with the hash of the config.
        folder: The run folder.
        method: Label of the method.
        axes: Label of every axis that the grid has to this cell's value.
        sparsity: Fraction of weights to remove.
        seed: Seed.
        arguments: Options of ``vpns fit`` that make this run, in order.
        config: The config they resolve to.
        warmup_key: Equal for cells with bit-identical dense warm-ups; None without a warm-up.
        needs: A file that another run has to leave first.
    """

    grid: str
    name: str
    folder: Path
    method: str
    axes: Mapping[str, Any]
    sparsity: float
    seed: int
    arguments: tuple[str, ...]
    config: Mapping[str, Any]
    warmup_key: str | None
    needs: Path | None = None


def expand(
    grid: GridFile,
    resolve: Resolve,
    changes: Mapping[str, Any] | None = None,
    common: Sequence[str] = (),
) -> list[Cell]:
    """Return all cells of a grid, every config parsed.

    Args:
        grid: The grid file.
        resolve: Parses options of ``vpns fit``; called once for each distinct set of config files
            and keys, since sparsities and seeds can be put into its answer.
        changes: Dotted keys laid over everything else.
        common: Further options of every cell, such as ``--plugins``.

    Raises:
        UserError: A config is wrong; the grid file, the cell and the key are named.
    """
    return _expand(grid, resolve, changes or {}, common, ())


def _expand(
    grid: GridFile,
    resolve: Resolve,
    changes: Mapping[str, Any],
    common: Sequence[str],
    users: Sequence[Path],
) -> list[Cell]:
    """Return all cells of a grid whose masks the grid files ``users`` tune, one for another."""
    if grid.path.resolve() in users:
        raise UserError(f"{grid.path}: masks_of leads back to this file, which needs its own masks")
    _check_keys(grid, changes)
    cells: dict[str, Cell] = {}
    for point in _points(grid):
        options = [*common, *point.options(grid, changes)]
        sources: Mapping[tuple[float, int], Cell] = {}
        if point.method.masks_of is not None:
            further = [*users, grid.path.resolve()]
            sources = _sources(grid, point.method, resolve, changes, common, further)
        # only a pruner that reads masks takes the path that each cell adds
        path = [f"{MASKS}={next(iter(sources.values())).folder}"] if sources else []
        try:
            config = resolve([*options, *path])
        except UserError as error:
            raise UserError(f"{grid.path}: {point.label()}: {error}") from None
        for sparsity in point.method.sparsities or grid.sparsities:
            for seed in point.method.seeds or grid.seeds:
                cell = _cell(grid, point, options, config, sparsity, seed, sources)
                if cell.name in cells:
                    raise UserError(f"{grid.path}: two cells are called {cell.name}")
                cells[cell.name] = cell
    return list(cells.values())


def _check_keys(grid: GridFile, changes: Mapping[str, Any]) -> None:
    """Refuse keys that every cell sets itself, so that another value would silently be lost."""
    places = [("--set", changes), (f"{grid.path}: overrides", grid.overrides)]
    places.append((f"{grid.path}: axes", grid.axes))
    places += [(f"{grid.path}: methods.{m.name}", m.keys) for m in grid.methods]
    for place, keys in places:
        for key in keys:
            if not CONFIG_KEY.fullmatch(str(key)) or str(key).rstrip("+") in NOT_KEYS:
                raise UserError(
                    f"{place}: {key!r} is no key of a config, such as find.epochs; --plugins and "
                    "--config are options of the command line alone"
                )
            if key in OF_THE_GRID:
                raise UserError(f"{place}: {key} is set by the grid: use {OF_THE_GRID[key]}")


@dataclass(frozen=True)
class _Point:
    """A cell but for sparsity and seed."""

    method: Method
    data: str | None
    backbone: str | None
    axes: Mapping[str, Any]

    def options(self, grid: GridFile, changes: Mapping[str, Any]) -> list[str]:
        """Return config files, then keys: what is more special comes later and wins."""
        files = [*grid.base]
        files += grid.data[self.data] if self.data else ()
        files += grid.backbones[self.backbone] if self.backbone else ()
        keys = {**grid.overrides}
        # the same key again has to come at its new place
        for layer in (self.method.keys, self.axes, changes):
            keys = {k: v for k, v in keys.items() if k not in layer} | dict(layer)
        options = [f"--config={file}" for file in (*files, *self.method.configs)]
        return options + [option(key, value) for key, value in keys.items()]

    def label(self) -> str:
        parts = [f"method {self.method.name!r}"]
        parts += [f"data {self.data!r}"] if self.data else []
        parts += [f"backbone {self.backbone!r}"] if self.backbone else []
        return ", ".join([*parts, *(f"{key} {value!r}" for key, value in self.axes.items())])


def option(key: str, value: object) -> str:
    """Return ``--key=value`` as the command line of ``vpns fit`` reads it."""
    # a date, which YAML makes of 2024-01-01, is the text that it was
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"--{key}={text}"


def _points(grid: GridFile) -> Iterator[_Point]:
    data: Sequence[str | None] = list(grid.data) or [None]
    backbones: Sequence[str | None] = list(grid.backbones) or [None]
    for data_label, backbone, method in product(data, backbones, grid.methods):
        # a method's own value of an axis is that of all its cells
        axes = {key: values for key, values in grid.axes.items() if key not in method.keys}
        for values in product(*axes.values()):
            yield _Point(method, data_label, backbone, dict(zip(axes, values, strict=True)))


def _cell(
    grid: GridFile,
    point: _Point,
    options: Sequence[str],
    parsed: Mapping[str, Any],
    sparsity: float,
    seed: int,
    sources: Mapping[tuple[float, int], Cell],
) -> Cell:
    config = deepcopy(dict(parsed))
    config["seed_everything"], config["find"]["sparsity"] = seed, sparsity
    arguments = [*options, f"--find.sparsity={sparsity!r}", f"--seed_everything={seed}"]
    needs = None
    if point.method.masks_of is not None:
        source = sources.get((sparsity, seed))
        if source is None:
            raise UserError(
                f"{grid.path}: {point.label()}: {point.method.masks_of[0]} has no cell of "
                f"{point.method.masks_of[1]!r} with sparsity {sparsity:g} and seed {seed}"
            )
        needs = source.folder / "masks.safetensors"
        arguments.append(f"{MASKS}={needs}")
        config["find"]["pruner"]["init_args"]["path"] = str(needs)
    digest = config_hash(config)
    tail = f"_{level(sparsity)}_seed{seed}_"
    stem = "_".join(_name_parts(point, config))[: LONGEST - len(tail) - len(digest)] + tail
    name = stem + digest
    if not (grid.runs / name).is_dir():
        name = _begun_as(grid.runs, stem, config) or name
    folder = grid.runs / name
    config["trainer"]["default_root_dir"] = str(folder)
    labels = {"data": point.data, "backbone": point.backbone, **point.axes}
    return Cell(
        grid=grid.name,
        name=name,
        folder=folder,
        method=point.method.name,
        axes={key: value for key, value in labels.items() if value is not None},
        sparsity=sparsity,
        seed=seed,
        arguments=(*arguments, f"--trainer.default_root_dir={folder}"),
        config=config,
        warmup_key=warmup_key(config),
        needs=needs,
    )


def _sources(
    grid: GridFile,
    method: Method,
    resolve: Resolve,
    changes: Mapping[str, Any],
    common: Sequence[str],
    users: Sequence[Path],
) -> Mapping[tuple[float, int], Cell]:
    """Return the cells whose masks a method tunes, by sparsity and seed."""
    assert method.masks_of is not None
    file, name = method.masks_of
    source = read_grid(Path(file))
    names = [other.name for other in source.methods]
    if name not in names:
        raise UserError(
            f"{grid.path}: methods.{method.name}.masks_of: {file} has no method {name!r}"
            f"{nearest(name, names)}; it has {', '.join(names)}"
        )
    found: dict[tuple[float, int], Cell] = {}
    for cell in _expand(source, resolve, changes, common, users):
        if cell.method != name:
            continue
        other = found.setdefault((cell.sparsity, cell.seed), cell)
        if other is not cell:
            raise UserError(
                f"{grid.path}: methods.{method.name}.masks_of: {file} has more than one cell of "
                f"{name!r} with sparsity {cell.sparsity:g} and seed {cell.seed}, {other.name} and "
                f"{cell.name}: name a grid without further axes"
            )
    return found


def _name_parts(point: _Point, config: Mapping[str, Any]) -> list[str]:
    data = point.data or str(config["data"]["class_path"]).rpartition(".")[2]
    parts = [data, *([point.backbone] if point.backbone else []), point.method.name]
    parts += [f"{key.rpartition('.')[2]}-{value}" for key, value in point.axes.items()]
    return [slug(part) for part in parts]


def level(sparsity: float) -> str:
    """Return a sparsity in a folder's name, with two decimals or as many as it has."""
    return f"s{sparsity:.2f}" if round(sparsity, 2) == sparsity else f"s{sparsity:g}"


def slug(text: str) -> str:
    """Return a label as part of a folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "x"


def config_hash(config: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits of everything in a config that changes what is learned."""
    return _digest({"config": method_leaves(config), "trainer": _learning(config)})[:8]


def _begun_as(runs: Path, stem: str, config: Mapping[str, Any]) -> str | None:
    """Return the folder of a run that a version with fewer keys, so another hash, has begun."""
    for folder in sorted(runs.glob(f"{escape(stem)}*")):
        with suppress(UserError):  # of a folder without a config, or with a damaged one
            old = RunFolder(folder).read_config()
            if not config_differences(old, config) and _learning(old) == _learning(config):
                return folder.name
    return None


def _learning(config: Mapping[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    return {key: trainer.get(key) for key in LEARNING_KEYS}


def warmup_key(config: Mapping[str, Any]) -> str | None:
    """Return a hash of all that a dense warm-up depends on; None if there is none."""
    if not config["warmup"]["epochs"]:
        return None
    import torch  # whose kernels round as they do in one version

    parts = {key: config[key] for key in ("seed_everything", "network", "data", "warmup")}
    trainer = {key: config["trainer"].get(key) for key in WARMUP_TRAINER_KEYS}
    versions = [__version__, torch.__version__]
    return _digest({**parts, "trainer": trainer, "versions": versions})[:16]


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
