"""What is wrong with a command line or config: which key, which value, what is allowed."""

import types
from collections import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.commands.named_classes import (
    CLASSES,
    classes,
    handed_to,
    offered,
    options_of,
    required,
)
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.stages import STAGES
from vpns_lightning.training.machine import ELSEWHERE, PRECISIONS, PROFILERS

SECTIONS: dict[str, type] = {
    "network": PromptedClassifier,
    **STAGES,
    "trainer": Trainer,
}
SEVERAL = ("logger", "callbacks", "plugins")  # keys that take a list of classes too
TOP = {"seed_everything": int, "log_artifacts": bool, "other_processes": bool}
ELSEWHERE_AT_TOP = {
    "ckpt_path": "the same command resumes an interrupted run from its folder",
    "model": "the network is described by the keys of network",
    "optimizer": "each stage has its own: find.optimizer, tune.optimizer",
    "lr_scheduler": "each stage has its own: find.lr_scheduler, tune.lr_scheduler",
}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


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
        needed = required(cls) - {name.removeprefix(f"{key}.") for name, _ in given}
        needed -= {name.removeprefix(f"{key}.init_args.") for name, _ in given}
        if needed:
            one = min(needed)
            return UserError(
                f"{key}: {cls.__name__} needs {', '.join(sorted(needed))}: --{key}.{one} VALUE, "
                f"or in a config {one} under init_args"
            )
    return UserError(f"{' '.join(message.split())}; see --help")


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
    if section in TOP and not option:
        return None if _takes(TOP[section], value) else _said(TOP[section], section, value)
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
    last = key.rpartition(".")[2]
    bases = CLASSES[last]
    if rest in {"", "class_path"}:
        if last == "logger" and isinstance(value, bool):
            return None
        items = value if isinstance(value, list) else [value]
        alone = last not in SEVERAL and items is value
        if alone or any(isinstance(item, int | float) for item in items):
            wanted = f"names {'one' if alone else 'a'} class, got {value!r}"
            return f"{key} {wanted}; allowed: {_listed(offered(bases))}"
        if items is value:
            return next(filter(None, (_of_listed(key, item) for item in items)), None)
        return _of_item(key, value, chosen)
    if rest == "help" or rest.startswith("dict_kwargs"):
        return None
    name = rest.removeprefix("init_args.").partition(".")[0].removesuffix("+")
    cls = chosen.get(key)
    if cls is None and bases[0] in {Optimizer, LRScheduler} and not isinstance(value, Mapping):
        return (
            f"{key}.{name} is an option of a class that was not named: give --{key} NAME before "
            f"it; allowed: {_listed(offered(bases))}"
        )
    if rest == "init_args" or cls is None:
        return None
    return _of_option(key, cls, name, value)


def _of_item(key: str, value: object, chosen: dict[str, type]) -> str | None:
    """Return what is wrong with a class that a key names; a right one is remembered."""
    last = key.rpartition(".")[2]
    allowed = offered(CLASSES[last])
    name = value.get("class_path") if isinstance(value, Mapping) else value
    if not isinstance(name, str) or (last == "profiler" and name in PROFILERS):
        return None
    short = name.rpartition(".")[2]
    cls = classes(CLASSES[last]).get(short)
    if cls is not None:
        chosen[key] = cls
    elif short == name or name.startswith(("vpns_lightning.", "torch.", "lightning.")):
        # what all of them end in makes none of them alike
        kind = CLASSES[last][0].__name__
        alike = nearest(short.removesuffix(kind), [each.removesuffix(kind) for each in allowed])
        hint = alike and nearest(short, allowed)
        return f"{key}: {name!r} is unknown{hint}; allowed: {_listed(allowed)}"
    return None


def _of_listed(key: str, item: object) -> str | None:
    """Return what is wrong with one of several classes that a key names."""
    chosen: dict[str, type] = {}
    problem = _of_item(key, item, chosen)
    if problem or key not in chosen:
        return problem
    options = item.get("init_args") or {} if isinstance(item, Mapping) else {}
    for name, value in options.items():
        problem = problem or _of_option(key, chosen[key], name, value)
    missing = required(chosen[key]) - options.keys()
    if missing and not problem:
        needed = ", ".join(sorted(missing))
        return f"{key}: {chosen[key].__name__} needs {needed} under init_args"
    return problem


def _of_option(key: str, cls: type, name: str, value: object) -> str | None:
    """Return what is wrong with an argument of a class."""
    allowed = {each: kind for each, kind in options_of(cls).items() if each not in handed_to(cls)}
    if name in allowed:
        return _unfit(cls, name, f"{key}.{name}", value)
    listed = f"allowed: {', '.join(sorted(allowed))}" if allowed else "it takes none"
    return f"{key}: {cls.__name__} has no option {name!r}{nearest(name, allowed)}; {listed}"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))


def _unfit(owner: type, name: str, key: str, value: object) -> str | None:
    """Return that a value is not of the kind an argument takes, judged by the parser itself."""
    annotation = options_of(owner).get(name, Any)
    if _in_words(annotation) is None and not _is_number(value):
        return None
    return None if _takes(annotation, value) else _said(annotation, key, value)


def _takes(annotation: Any, value: object) -> bool:
    probe = ArgumentParser(exit_on_error=False)
    probe.add_argument("--value", type=annotation)
    try:
        probe.parse_object({"value": value})
    except Exception:  # whatever the parser says, the value does not fit
        return False
    return True


def _said(annotation: Any, key: str, value: object) -> str:
    if key == "trainer.precision":
        return f"{key} is one of {', '.join(PRECISIONS)} or null, got {value!r}"
    return f"{key} is {_in_words(annotation) or 'no number'}, got {value!r}"


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
    if get_origin(annotation) in {list, abc.Sequence, abc.Iterable}:
        each = _in_words(get_args(annotation)[0])
        return None if each is None else f"a list, each {each}"
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
