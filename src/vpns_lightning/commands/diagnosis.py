"""What is wrong with a command line or config: which key, which value, what is allowed."""

import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.data import ImageData
from vpns_lightning.network import LabelMapping, Prompt, PromptedClassifier
from vpns_lightning.pruners import Pruner
from vpns_lightning.stages import STAGES
from vpns_lightning.training.machine import ELSEWHERE

SECTIONS: dict[str, type] = {
    "network": PromptedClassifier,
    **STAGES,
    "trainer": Trainer,
}
# the last part of a key that names a class, and what the class must be
CLASSES: dict[str, type] = {
    "data": ImageData,
    "pruner": Pruner,
    "prompt": Prompt,
    "mapping": LabelMapping,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
    "logger": Logger,
    "callbacks": Callback,
    "profiler": Profiler,
}
ELSEWHERE_AT_TOP = {
    "ckpt_path": "the same command resumes an interrupted run from its folder",
    "model": "the network is described by the keys of network",
    "optimizer": "each stage has its own: find.optimizer, tune.optimizer",
    "lr_scheduler": "each stage has its own: find.lr_scheduler, tune.lr_scheduler",
}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
SOURCES = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def explained(message: str, parser: ArgumentParser, arguments: Sequence[str]) -> UserError:
    """Return one line that names the key, the value, and what is allowed.

    Args:
        message: What the parser says, for what is not known better here.
        parser: The parser; its keys are allowed.
        arguments: What it was given.
    """
    known = _keys(parser)
    chosen: dict[str, type] = {}
    given = list(_given(arguments))
    for key, value in given:
        problem = _problem(key, value, known, chosen)
        if problem:
            return UserError(problem)
    for key, cls in chosen.items():
        needed = _required(cls) - {name.removeprefix(f"{key}.") for name, _ in given}
        needed -= {name.removeprefix(f"{key}.init_args.") for name, _ in given}
        if needed:
            one = min(needed)
            return UserError(
                f"{key}: {cls.__name__} needs {', '.join(sorted(needed))}: --{key}.{one} VALUE, "
                f"or in a config {one} under init_args"
            )
    return UserError(" ".join(message.split()))


def classes(base: type[Any]) -> dict[str, type]:
    """Return the concrete subclasses of ``base`` that are imported, by the names configs use."""
    found: dict[str, type] = {}
    for child in base.__subclasses__():
        found |= classes(child)
        if not inspect.isabstract(child) and not child.__name__.startswith("_"):
            found[child.__name__] = child
    return found


def _problem(key: str, value: object, known: set[str], chosen: dict[str, type]) -> str | None:
    section, _, option = key.partition(".")
    if section in ELSEWHERE_AT_TOP and section not in known:
        return f"there is no option {section!r}: {ELSEWHERE_AT_TOP[section]}"
    if section == "seed_everything" and isinstance(value, list):
        return (
            f"seed_everything is one number, got {value}: several seeds are several runs, which "
            "vpns grid makes of a file with a line seeds: " + str(value)
        )
    if section == "data":
        return _of_class("data", option, value, chosen)
    owner = SECTIONS.get(section)
    if owner is None or not any(one.startswith(f"{section}.") for one in known):
        return None if key in known else _unknown(key, known)
    if not option:
        if isinstance(value, Mapping):
            return None  # its keys follow
        return f"{section} is a section with keys of its own, got {value!r}"
    name, _, rest = option.partition(".")
    name = name.removesuffix("+")
    if section == "trainer" and name in ELSEWHERE:
        return f"trainer.{name} is not set here: {ELSEWHERE[name]}"
    if f"{section}.{name}" not in known:
        allowed = [one.removeprefix(f"{section}.") for one in known if _is_child(one, section)]
        hint = nearest(name, allowed)
        full = f"{section}.{name}"
        return (
            f"{section} has no option {name!r}{hint or nearest(full, known)}; "
            f"allowed: {', '.join(sorted(allowed))}"
        )
    if name in CLASSES:
        return _of_class(f"{section}.{name}", rest, value, chosen)
    return None if rest else _unfit(owner, name, f"{section}.{name}", value)


def _of_class(key: str, rest: str, value: object, chosen: dict[str, type]) -> str | None:
    """Return what is wrong with the class that a key names, or with an argument of it."""
    base = CLASSES[key.rpartition(".")[2]]
    if rest in {"", "class_path"}:
        if any(_is_number(item) for item in (value if isinstance(value, list) else [value])):
            return f"{key} names a class, got {value!r}; allowed: {_listed(classes(base))}"
        name = value.get("class_path") if isinstance(value, Mapping) else value
        return _of_name(key, base, name, chosen) if isinstance(name, str) else None
    if rest == "help" or rest.startswith("dict_kwargs"):
        return None
    name = rest.removeprefix("init_args.").partition(".")[0].removesuffix("+")
    cls = chosen.get(key)
    if cls is None and base in {Optimizer, LRScheduler} and not isinstance(value, Mapping):
        return (
            f"{key}.{name} is an option of a class that was not named: give --{key} NAME before "
            f"it; allowed: {_listed(classes(base))}"
        )
    if rest == "init_args" or cls is None:
        return None
    allowed = options_of(cls)
    if name not in allowed:
        hint = nearest(name, allowed)
        return (
            f"{key}: {cls.__name__} has no option {name!r}{hint}; allowed: "
            f"{', '.join(sorted(allowed))}"
        )
    return _unfit(cls, name, f"{key}.{name}", value)


def _of_name(key: str, base: type, name: str, chosen: dict[str, type]) -> str | None:
    found = classes(base)
    cls = found.get(name.rpartition(".")[2])
    if cls is None and "." not in name:
        return f"{key}: {name!r} is unknown{nearest(name, found)}; allowed: {_listed(found)}"
    if cls is not None:
        chosen[key] = cls
    elif name.startswith(("vpns_lightning.", "torch.", "lightning.")):
        short = name.rpartition(".")[2]
        return f"{key}: {name!r} is unknown{nearest(short, found)}; allowed: {_listed(found)}"
    return None


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))


def options_of(cls: type) -> dict[str, Any]:
    """Return the arguments of a class with their annotations, those it passes on included."""
    options: dict[str, Any] = {}
    for owner in cls.__mro__:
        own = inspect.signature(owner).parameters if "__init__" in vars(owner) else {}
        hints = _hints(owner) if own else {}
        options = {
            name: hints.get(name, Any)
            for name, parameter in own.items()
            if parameter.kind not in SOURCES
        } | options
        passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values())
        if own and not passes_on:
            break
    return options


def _required(cls: type) -> set[str]:
    """Return the arguments that a class has no default for, but for what a stage hands it."""
    handed = {Optimizer: "params", LRScheduler: "optimizer"}
    return {
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in SOURCES
    } - {name for base, name in handed.items() if issubclass(cls, base)}


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls.__init__)  # type: ignore[misc]  # of a class at hand
    except (NameError, TypeError):  # names that are imported for the type checker alone
        return {}


def _unfit(owner: type, name: str, key: str, value: object) -> str | None:
    """Return that a value is not of the kind an argument takes, judged by the parser itself."""
    annotation = options_of(owner).get(name, Any)
    kinds = _in_words(annotation)
    if kinds is None and not _is_number(value):
        return None
    probe = ArgumentParser(exit_on_error=False)
    probe.add_argument("--value", type=annotation)
    try:
        probe.parse_object({"value": value})
    except Exception:  # whatever the parser says, the value does not fit
        return f"{key} is {kinds or 'no number'}, got {value!r}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_words(annotation: Any) -> str | None:
    """Return in words which plain values a type allows; None for a type that is not plain."""
    if annotation in WORDS:
        return WORDS[annotation]
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in {Union, types.UnionType}:
        parts = [_in_words(part) for part in get_args(annotation) if part is not Tensor]
        return None if None in parts else " or ".join(dict.fromkeys(part for part in parts if part))
    return None


def _unknown(key: str, known: set[str]) -> str:
    return f"there is no option {key!r}{nearest(key, known)}; see --help"


def _is_child(key: str, section: str) -> bool:
    return key.startswith(f"{section}.") and not key.endswith(".help")


def _keys(parser: ArgumentParser) -> set[str]:
    """Return the keys of a parser, sections left out."""
    return {*parser.get_defaults(skip_validation=True).keys(), "config", "plugins", "data", "run"}


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values in the order in which they count."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            continue
        key, equals, text = word[2:].partition("=")
        if not equals:
            text = next(words, "")
        if key == "config":
            yield from _of_config(text)
        else:
            yield from _flat(key, _as_yaml(text))


def _of_config(text: str) -> Iterator[tuple[str, Any]]:
    try:
        with open(text) as file:
            content = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError):
        content = _as_yaml(text)
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(str(key), value)


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    yield key, value
    if isinstance(value, Mapping):
        # the class first: what follows are its arguments
        for name in sorted(value, key=lambda name: name != "class_path"):
            yield from _flat(f"{key}.{name}", value[name])


def _as_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
