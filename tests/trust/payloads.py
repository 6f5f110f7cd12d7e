"""Configs that would run code if anything in them were imported, called or unpickled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from toy_config import BASE, Config, laid

PLAIN_KEYS = ("network.backbone", "network.weights", "find.views", "trainer.devices")
CLASS_KEYS = (
    *("data", "network.prompt", "network.mapping", "find.pruner", "find.optimizer"),
    *("tune.optimizer", "tune.lr_scheduler", "trainer.callbacks", "trainer.logger"),
    *("trainer.plugins", "trainer.strategy", "trainer.profiler", "trainer.accelerator"),
)
LOGGER = "lightning.pytorch.loggers.WandbLogger"
DDP = "lightning.pytorch.strategies.DDPStrategy"


def evil_module(folder: Path, mark: Path) -> str:
    """Write a module that leaves a mark when it is imported; return its name."""
    (folder / "evil_module.py").write_text(
        f"open({str(mark)!r}, 'a').write('imported\\n')\n"
        f"def touch(*args, **kwargs): open({str(mark)!r}, 'a').write('called\\n')\n"
        "from vpns_lightning import ImageData, PadPrompt, Hydra\n"
        "class Thing:\n    def __init__(self, *a, **k): touch()\n"
        "class Prompt(PadPrompt): pass\nclass Data(ImageData): pass\nclass Pruner(Hydra): pass\n"
    )
    return "evil_module"


def shell(mark: Path) -> list[Config]:
    """Return classes and functions that would leave a mark as soon as they are called."""
    command = f"echo ran >> {mark}"
    return [
        {"class_path": "subprocess.Popen", "init_args": {"args": ["sh", "-c", command]}},
        {"class_path": "os.system", "init_args": {"command": command}},
        {"class_path": "evil_module.Thing"},
        {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": str(mark.parent)}},
        {"class_path": "torch.utils.data.dataloader.os.system", "init_args": {"command": command}},
        {
            "class_path": "lightning.pytorch.loggers.csv_logs.os.system",
            "init_args": {"command": command},
        },
        {"class_path": "vpns_lightning.cli.import_module", "init_args": {"name": "evil_module"}},
        {"class_path": "builtins.exec", "init_args": {"source": "import evil_module"}},
    ]


def configs(folder: Path, mark: Path) -> Iterator[tuple[str, Config | str]]:
    """Yield hostile configs with a name for each; text is a config file's own."""
    things = shell(mark)
    # every key that wants a class, and some that want none
    for index, key in enumerate((*CLASS_KEYS, *PLAIN_KEYS)):
        thing = things[index % len(things)]
        is_list = key in {"trainer.callbacks", "trainer.logger"}
        yield f"{key} {thing['class_path']}", laid(key, [thing] if is_list else thing)
        yield f"{key} evil_module by name", laid(key, "evil_module.Thing")
    # places without a type
    for thing in things[:4]:
        yield (
            f"dict_kwargs {thing['class_path']}",
            laid("trainer.logger", {"class_path": LOGGER, "dict_kwargs": {"settings": thing}}),
        )
        yield (
            f"ddp_comm_state {thing['class_path']}",
            laid("trainer.strategy", {"class_path": DDP, "init_args": {"ddp_comm_state": thing}}),
        )
        yield (
            f"dict_kwargs of a strategy {thing['class_path']}",
            laid("trainer.strategy", {"class_path": DDP, "dict_kwargs": {"timeout": thing}}),
        )
        yield (
            f"backbone argument {thing['class_path']}",
            laid(
                "network.backbone",
                {"class_path": "squeezenet1_1", "init_args": {"dropout": thing}},
            ),
        )
    # callables by their dotted name
    for hook, name in (
        ("on_fit_start", "evil_module.touch"),
        ("setup", "os.abort"),
        ("on_train_start", "vpns_lightning.cli.main"),
    ):
        callback = {
            "class_path": "lightning.pytorch.callbacks.LambdaCallback",
            "init_args": {hook: name},
        }
        yield f"LambdaCallback {name}", laid("trainer.callbacks", [callback])
        short = {**callback, "class_path": "LambdaCallback"}
        yield f"LambdaCallback by its short name {name}", laid("trainer.callbacks", [short])
    yield (
        "ddp_comm_hook",
        laid(
            "trainer.strategy",
            {"class_path": DDP, "init_args": {"ddp_comm_hook": "evil_module.touch"}},
        ),
    )
    yield (
        "lr_lambda",
        laid(
            "tune.lr_scheduler",
            {
                "class_path": "torch.optim.lr_scheduler.LambdaLR",
                "init_args": {"lr_lambda": "evil_module.touch"},
            },
        ),
    )
    yield (
        "pruning_fn",
        laid(
            "trainer.callbacks",
            [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelPruning",
                    "init_args": {"pruning_fn": "evil_module.touch"},
                }
            ],
        ),
    )
    yield from _in_other_words(folder, things)


def _in_other_words(folder: Path, things: list[Config]) -> Iterator[tuple[str, Config | str]]:
    """Yield the same things, said so that a look at the text would not see them."""
    for index, thing in enumerate((things[0], things[2])):
        named = thing["class_path"]
        file = folder / f"part{index}.yaml"
        file.write_text(yaml.safe_dump(thing))
        yield f"a file for a key {named}", laid("find.pruner", str(file))
        yield f"a file for data {named}", laid("data", str(file))
        yield f"JSON in a text {named}", laid("find.pruner", json.dumps(thing))
        yield f"JSON in a text of a list {named}", laid("trainer.callbacks", [json.dumps(thing)])
        yield f"a dotted key {named}", {**BASE, "tune.optimizer": thing}
        yield f"a dotted class_path {named}", {**BASE, "find.pruner.class_path": named}
        yield f"key+ {named}", laid("trainer.callbacks+", thing)
        yield f"dotted key+ {named}", {**BASE, "trainer.callbacks+": [thing]}
        whole = folder / f"whole{index}.yaml"
        whole.write_text(yaml.safe_dump(laid("trainer.callbacks", [thing])))
        yield f"config in a config {named}", {**BASE, "config": str(whole)}
        yield f"config list in a config {named}", {**BASE, "config": [str(whole)]}
        section = folder / f"trainer{index}.yaml"
        section.write_text(yaml.safe_dump({"callbacks": [thing]}))
        yield f"a section in a file {named}", {**BASE, "trainer": str(section)}
    text = yaml.safe_dump(BASE)
    yield "python/object/apply", f"{text}\nx: !!python/object/apply:os.system ['touch {folder}/x']"
    yield "python/name", f"{text}\nx: !!python/name:evil_module.touch"
    yield "plugins in a config", {**BASE, "plugins": str(folder / "evil_module.py")}
    yield "trainer.plugins file", laid("trainer.plugins", str(folder / "evil_module.py"))


class Payload:
    """What would leave a mark if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        import builtins

        return builtins.open, (self.mark, "a")


def pickles(mark: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a hostile file of weights would hold, its mark left when it is unpickled."""
    bomb = Payload(mark)
    tensor = torch.zeros(2)
    yield "bare", bomb
    yield "in a state dict", {"state_dict": {"weight": tensor, "x": bomb}}
    yield "beside tensors", {"weight": tensor, "note": [bomb]}
    yield (
        "in a released checkpoint",
        {"state_dict": {}, "visual_prompt": bomb, "mapping_sequence": tensor},
    )
