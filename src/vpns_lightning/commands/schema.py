"""``vpns schema``: what a config may hold, as JSON schema for editors.

The parser describes its plain keys itself. Its own description of classes follows every argument
of every class of torch and Lightning, and wants whole class paths and whole configs: here a class
may be named as configs name it, and a file may be an overlay.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import LRScheduler

from vpns_lightning.base.files import write_text
from vpns_lightning.commands.keys import HEADINGS, SHARES, add_seed
from vpns_lightning.commands.named_classes import CLASSES, offered, options_of
from vpns_lightning.commands.one_line import OneLineParser
from vpns_lightning.grid.file import KEYS, METHOD_KEYS
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.stages import STAGES, SubnetworkTuning
from vpns_lightning.training.machine import ELSEWHERE

DRAFT = "https://json-schema.org/draft/2020-12/schema"
# keys of a class or section whose values say themselves what they are
OPEN = ("backbone", "loss", "average", "strategy", "plugins", "accelerator")
# arguments that the program gives, not a config
GIVEN = ("params", "network", "num_classes", "seed")
# classes of Lightning, of which the names are listed and no arguments
NAMED_ONLY = ("logger", "callbacks", "profiler")
PLAIN = (int, float, str, bool, type(None), dict, list, Path, Ellipsis)
Schema = dict[str, Any]


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns schema``.

    Raises:
        UserError: The command line is wrong, or the file cannot be written.
    """
    parser = OneLineParser(
        prog="vpns schema",
        description=(
            "Print the JSON schema of a config. Editors complete and check by it where the first "
            "line of a config says: # yaml-language-server: $schema=config.json"
        ),
    )
    parser.add_argument("--grid", action="store_true", help="that of a grid file")
    parser.add_argument("--output", type=Path, help="write it to this file")
    given = parser.parse_args(list(arguments))
    text = json.dumps(grid_schema() if given.grid else config_schema(), indent=1)
    if given.output is None:
        print(text)
    else:
        write_text(given.output, text + "\n")


def config_schema() -> Schema:
    """Return the schema of a config of ``vpns fit``."""
    properties = {
        "seed_everything": _described(add_seed)["seed_everything"],
        "data": {"$ref": "#/$defs/data"},
        "network": _section(PromptedClassifier),
    }
    for key, stage in STAGES.items():
        properties[key] = _section(stage, ("name",) if stage is SubnetworkTuning else ())
    properties["trainer"] = _section(Trainer, ELSEWHERE)
    properties["trainer"]["properties"] |= {name: {"type": ["number", "null"]} for name in SHARES}
    properties["other_processes"] = {"type": "boolean"}
    for key, said in HEADINGS.items():
        properties[key]["description"] = said
    defs = {name: _class(name) for name in CLASSES if name not in OPEN}
    return _object(properties, title="vpns config") | {"$schema": DRAFT, "$defs": defs}


def grid_schema() -> Schema:
    """Return the schema of a grid file of ``vpns grid``."""
    text, texts = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    files = {"anyOf": [text, texts]}
    axis = {"anyOf": [texts, {"type": "object", "additionalProperties": files}]}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    numbers = {
        "sparsities": {"type": "array", "items": share, "minItems": 1},
        "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
    }
    overlays = {"anyOf": [text, {"type": "array", "items": {"type": ["string", "object"]}}]}
    source = _object({"grid": text, "method": text}) | {"required": ["grid", "method"]}
    method = _object({"use": overlays, **numbers, "masks_of": source})
    assert method["properties"].keys() == set(METHOD_KEYS)
    properties: Schema = {
        **{"name": text, "about": text, "runs": text},
        **{"base": files, "data": axis, "backbones": axis},
        "methods": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "null"}, overlays, method]},
        },
        **numbers,
        "axes": {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}},
        "overrides": {"type": "object"},
    }
    assert properties.keys() == set(KEYS)
    needed = ["name", "about", "methods", "sparsities", "seeds"]
    return _object(properties, title="vpns grid") | {"required": needed, "$schema": DRAFT}


def _class(name: str) -> Schema:
    """Return the schema of a key whose value names a class, alone or with its arguments."""
    found = offered(CLASSES[name])
    options: list[Schema] = [{"enum": sorted(found)}, {"type": "string", "pattern": r"[./]"}]
    for each, cls in sorted(found.items()):
        path = {"type": "string", "pattern": rf"^([\w.]+\.)?{each}$"}
        skip = ("optimizer",) if issubclass(cls, LRScheduler) else ()
        arguments = {"type": "object"} if name in NAMED_ONLY else _section(cls, skip)
        spec = {"class_path": path, "init_args": arguments, "dict_kwargs": {"type": "object"}}
        options.append({"title": each, "required": ["class_path"], **_object(spec)})
    # of a plug-in or another library, whose arguments are not known here
    known = rf"^([\w.]+\.)?({'|'.join(sorted(found))})$"
    foreign = {"class_path": {"type": "string", "pattern": r"\.", "not": {"pattern": known}}}
    options.append({"required": ["class_path"], "type": "object", "properties": foreign})
    # an overlay may change arguments of the class that the config below it names
    options.append({"required": ["init_args"], **_object({"init_args": {"type": "object"}})})
    return {"anyOf": options}


def _section(owner: type, skip: Iterable[str] = ()) -> Schema:
    """Return the schema of the arguments of a class."""
    hints = options_of(owner)
    names = hints.keys() - {*GIVEN, *skip}
    # the parser imports the classes it describes, which the rule for configs may forbid
    mixed = {name for name in names - {*CLASSES, *OPEN} if not _is_plain(hints[name])}

    def add(parser: ArgumentParser) -> None:
        leave = {*CLASSES, *OPEN, *GIVEN, *skip, *mixed}
        parser.add_class_arguments(owner, "own", skip=leave, fail_untyped=False)
        for name in sorted(mixed):
            kinds = [kind for kind in get_args(hints[name]) if _is_plain(kind)]
            if kinds:
                parser.add_argument(f"--own.{name}", type=reduce(or_, kinds))

    plain = _described(add).get("own", {}).get("properties", {})
    properties: Schema = {name: plain[name] for name in plain if name in names}
    for name in sorted(names - properties.keys()):
        if name in OPEN or name not in CLASSES:
            properties[name] = {}
            continue
        one = {"$ref": f"#/$defs/{name}"}
        many = [{"type": "array", "items": one}] if name in {"logger", "callbacks"} else []
        properties[name] = {"anyOf": [one, *many, {"type": ["null", "boolean"]}]}
    return _object(properties)


def _is_plain(annotation: Any) -> bool:
    """Return whether a type is made of plain values alone, without classes to import."""
    if get_origin(annotation) is Literal:
        return True
    parts = get_args(annotation)
    return all(map(_is_plain, parts)) if parts else annotation in PLAIN


def _described(add: Callable[[ArgumentParser], object]) -> Schema:
    """Return the parser's own schema of some keys, which need not be given and may be null."""
    parser = ArgumentParser()
    add(parser)
    properties: Schema = json.loads(parser.get_completion_script("jsonschema"))["properties"]
    return properties


def _object(properties: Mapping[str, Any], **more: Any) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}
