"""A grid file: what is compared, at which sparsities and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.seeds import check_seed
from vpns_lightning.base.shipped import config_file
from vpns_lightning.base.unique_keys import UniqueKeys
from vpns_lightning.sparsity import check_sparsity

KEYS = (
    *("name", "about", "runs", "base", "data", "backbones", "methods"),
    *("sparsities", "seeds", "axes", "overrides"),
)
METHOD_KEYS = ("use", "sparsities", "seeds", "masks_of")


@dataclass(frozen=True)
class Method:
    """One curve of a grid.

    Attributes:
        name: Its label.
        configs: Overlay files.
        keys: Dotted config keys and their values.
        sparsities: Those of this method alone; the grid's where None.
        seeds: Those of this method alone; the grid's where None.
        masks_of: Another grid file and one of its methods: the masks to tune.
    """

    name: str
    configs: tuple[str, ...] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    sparsities: tuple[float, ...] | None = None
    seeds: tuple[int, ...] | None = None
    masks_of: tuple[str, str] | None = None


@dataclass(frozen=True)
class GridFile:
    """The content of a grid file.

    Attributes:
        path: The file.
        name: Of the grid; begins with the id of the figure it is for.
        about: One line.
        runs: Folder of the run folders.
        base: Config files under all cells.
        data: Label to config files, an axis.
        backbones: Label to config files, an axis.
        methods: The methods.
        sparsities: Fractions of weights removed.
        seeds: Seeds.
        axes: Dotted key to values, further axes.
        overrides: Dotted keys of all cells, laid over every config file.
    """

    path: Path
    name: str
    about: str
    runs: Path
    base: tuple[str, ...]
    data: Mapping[str, tuple[str, ...]]
    backbones: Mapping[str, tuple[str, ...]]
    methods: tuple[Method, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Any, ...]]
    overrides: Mapping[str, Any]


def read_grid(path: Path) -> GridFile:
    """Read and check a grid file; config files are looked up from the working directory.

    It and they may also be named as the configs that come with the package are.

    Raises:
        UserError: The file is missing, no YAML, or a key is unknown, missing or of another kind.
    """
    path = config_file(path, kind="grid file", below="grid")
    content = _read(path)
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        hint = nearest(str(unknown[0]), KEYS)
        raise UserError(f"{path}: unknown key {unknown[0]!r}{hint}; allowed: {', '.join(KEYS)}")
    for key in ("name", "about", "methods", "sparsities", "seeds"):
        if not content.get(key):
            raise UserError(f"{path}: the key {key!r} is missing or empty")
    name = str(content["name"])
    methods = _mapping(path, "methods", content["methods"])
    grid = GridFile(
        path=path,
        name=name,
        about=str(content["about"]),
        runs=Path(str(content.get("runs") or f"runs/{name}")).expanduser(),
        base=_files(path, "base", content.get("base")),
        data=_axis_of_files(path, "data", content.get("data")),
        backbones=_axis_of_files(path, "backbones", content.get("backbones")),
        methods=tuple(_method(path, label, given) for label, given in methods.items()),
        sparsities=_sparsities(path, "sparsities", content["sparsities"]),
        seeds=_seeds(path, "seeds", content["seeds"]),
        axes={
            key: _values(path, f"axes.{key}", values)
            for key, values in _mapping(path, "axes", content.get("axes")).items()
        },
        overrides=_flat_keys(_mapping(path, "overrides", content.get("overrides"))),
    )
    if not (grid.base or grid.data or grid.backbones):
        raise UserError(f"{path}: no config file: set 'base', or the axes 'data' or 'backbones'")
    return grid


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"grid file {path} does not exist")
    try:
        content = yaml.load(path.read_text(), UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"grid file {path} is no YAML: {error}") from None
    except OSError as error:
        raise UserError(f"grid file {path} cannot be read: {error.strerror}") from None
    return dict(_mapping(path, "the file", content))


def _method(path: Path, name: str, given: object) -> Method:
    key = f"methods.{name}"
    options: Mapping[str, Any] = {}
    if isinstance(given, Mapping):
        options = given
        unknown = [option for option in options if option not in METHOD_KEYS]
        if unknown:
            raise UserError(
                f"{path}: {key} has no option {unknown[0]!r}{nearest(str(unknown[0]), METHOD_KEYS)}"
                f"; allowed: {', '.join(METHOD_KEYS)}, or a list of config files and keys"
            )
        given = options.get("use")
    configs, keys = [], {}
    if not isinstance(given, Sequence):
        given = [] if given is None else [given]
    for item in [given] if isinstance(given, str) else given:
        if isinstance(item, str):
            configs.append(item)
        elif isinstance(item, Mapping):
            keys.update(_flat_keys(item))
        else:
            raise UserError(f"{path}: {key} must list config files and keys, got {item!r}")
    source = options.get("masks_of")
    if source is not None and (
        not isinstance(source, Mapping) or set(source) != {"grid", "method"}
    ):
        raise UserError(f"{path}: {key}.masks_of must be {{grid: FILE, method: NAME}}")
    return Method(
        name=str(name),
        configs=tuple(configs),
        keys=keys,
        sparsities=_sparsities(path, f"{key}.sparsities", options.get("sparsities")) or None,
        seeds=_seeds(path, f"{key}.seeds", options.get("seeds")) or None,
        masks_of=None if source is None else (str(source["grid"]), str(source["method"])),
    )


def _mapping(path: Path, key: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: {key} must be a mapping of names to values, got {value!r}")
    return value


def _values(path: Path, key: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise UserError(f"{path}: {key} must be a list of values, got {values!r}")
    if any(value in values[:index] for index, value in enumerate(values)):
        raise UserError(f"{path}: {key} names a value twice: {list(values)}")
    return tuple(values)


def _numbers(path: Path, key: str, values: object, kind: type[Any]) -> tuple[Any, ...]:
    if values is None:
        return ()
    try:
        numbers = [float(value) for value in _values(path, key, values)]
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: {key} must be numbers, got {values!r}") from None
    if kind is int and not all(number.is_integer() for number in numbers):
        raise UserError(f"{path}: {key} must be whole numbers, got {values!r}")
    return _values(path, key, [kind(number) for number in numbers])


def _sparsities(path: Path, key: str, values: object) -> tuple[float, ...]:
    return _checked(path, key, _numbers(path, key, values, float), check_sparsity)


def _seeds(path: Path, key: str, values: object) -> tuple[int, ...]:
    return _checked(path, key, _numbers(path, key, values, int), check_seed)


def _checked(
    path: Path, key: str, values: tuple[Any, ...], check: Callable[[Any], Any]
) -> tuple[Any, ...]:
    try:
        return tuple(map(check, values))
    except UserError as error:
        raise UserError(f"{path}: {key}: {error}") from None


def _files(path: Path, key: str, value: object) -> tuple[str, ...]:
    files = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(files, Sequence) or not all(isinstance(file, str) for file in files):
        raise UserError(f"{path}: {key} must name config files, got {value!r}")
    return tuple(files)


def _axis_of_files(path: Path, key: str, value: object) -> Mapping[str, tuple[str, ...]]:
    """Return label to config files; a plain list takes the files' names as labels."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        labels = [Path(file).stem for file in _files(path, key, value)]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise UserError(
                f"{path}: {key} names two files {twice!r}: name them {{LABEL: FILE, ...}}"
            )
        value = dict(zip(labels, value, strict=True))
    axis = _mapping(path, key, value)
    return {str(label): _files(path, f"{key}.{label}", files) for label, files in axis.items()}


def _flat_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys; a class (``class_path``) and its arguments stay one value."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value and "class_path" not in value:
            leaves |= _flat_keys(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
