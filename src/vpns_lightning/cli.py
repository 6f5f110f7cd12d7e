"""The ``vpns`` command; nothing heavy is imported before a subcommand needs it."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from vpns_lightning._version import __version__
from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.stopping import listening

# subcommand: (module, what it does)
COMMANDS = {
    "fit": (
        "lightning_cli",
        "find a sparse subnetwork and its prompt, tune them; run again to resume",
    ),
    "validate": ("lightning_cli", "measure runs on the images they held out for validation"),
    "test": ("lightning_cli", "measure the accuracy of finished runs"),
    "predict": (
        "lightning_cli",
        "classify a folder of images with a finished run, into a CSV file",
    ),
    "export": ("export", "write a finished run's network as .safetensors, .pt2 or .onnx"),
    "bench": ("bench", "measure what a run's pruning saves against the dense network"),
    "import": ("importing", "make a run folder of a checkpoint of the authors' released code"),
    "grid": (
        "grid",
        "many runs: methods x data x sparsities x seeds; run again for what is missing",
    ),
    "ls": ("ls", "list runs: method, data, sparsity, accuracy, seeds, state, age"),
    "compare": ("compare", "two runs: settings that differ, curves, overlap of masks, difference"),
    "report": ("report", "draw figures, tables and a page from finished runs"),
    "data": (
        "data",
        "check a data set, or prepare it for runs: download, decode images once",
    ),
    "configs": ("configs", "list the configs that come with vpns, or copy them"),
    "schema": ("schema", "print the JSON schema of a config, by which editors complete and check"),
}
# what is typed alone: what it cannot do without, in a command or options that have it
NEEDS = {
    "fit": "a config: vpns fit --config configs/quickstart.yaml",
    "validate": "a run: vpns validate --run runs/quickstart",
    "test": "a run: vpns test --run runs/quickstart",
    "predict": "a run and images: vpns predict --run runs/quickstart --images DIR",
    "export": "a run and a file: vpns export --run runs/quickstart --output net.onnx",
    "bench": "a run: vpns bench --run runs/quickstart",
    "import": "a checkpoint and what it is of: vpns import --checkpoint best.pth --backbone "
    "resnet18 --sparsity 0.9 --data CIFAR100 --data.root data --output runs/imported",
    "grid": "a grid file: vpns grid configs/grid/fig7_mini.yaml",
    "compare": "two runs: vpns compare runs/a runs/b",
    "report": "a folder of runs: vpns report runs",
    "data check": "a data set: give --data CIFAR100 --data.root data, or --config FILE",
    "data prepare": "a data set: give --data CIFAR100 --data.root data, or --config FILE",
}
EXAMPLES = """\
examples:
  vpns fit --config configs/quickstart.yaml
  vpns fit --config configs/resnet18_cifar100.yaml --find.sparsity 0.8 \\
           --trainer.default_root_dir runs/s80
  vpns grid configs/grid/fig7_mini.yaml --slots 2
  vpns test --run runs/quickstart
  vpns data check --data CIFAR100 --data.root data"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit status: 0 done, 2 wrong input (one line on stderr says what to change), 130 interrupted
    and 143 stopped by SIGTERM, both after saving. With VPNS_DEBUG set, wrong input ends in the
    traceback that led to the line.

    Args:
        argv: Arguments without the program's name; those of the process where None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else "--help"
    if command in {"-h", "--help", "help"}:
        print(_help())
    elif command in {"-V", "--version"}:
        print(f"vpns {__version__}")
    elif command == "--print_completion":
        _guarded(lambda: _print_completion(arguments[1:]))
    elif command not in COMMANDS:
        allowed = ", ".join(COMMANDS)
        _refuse(f"unknown subcommand {command!r}{nearest(command, COMMANDS)}; allowed: {allowed}")
    else:
        _guarded(lambda: _run(command, arguments[1:]))


def _run(command: str, options: list[str]) -> None:
    alone = " ".join([command, *options])
    if alone in NEEDS:
        raise UserError(f"{alone} needs {NEEDS[alone]}; see vpns {alone} --help")
    module, _ = COMMANDS[command]
    # those of the Lightning CLI are told which of them was asked for
    arguments = [command, *options] if module == "lightning_cli" else options
    import_module(f"vpns_lightning.commands.{module}").run(arguments)


def _print_completion(shells: list[str]) -> None:
    if len(shells) != 1:
        raise UserError("--print_completion needs the name of a shell: bash or zsh")
    completion = import_module("vpns_lightning.commands.completion")
    commands = {name: (purpose, partial(_run, name)) for name, (_, purpose) in COMMANDS.items()}
    print(completion.script(shells[0], commands))


def _guarded(work: Callable[[], None]) -> None:
    try:
        with listening():  # from here on, also while libraries are imported
            work()
    except UserError as error:
        if os.environ.get("VPNS_DEBUG"):
            raise
        _refuse(str(error))
    except BrokenPipeError:  # head or less was closed before all was printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a full disk, a name that is too long, a folder that is closed
        if os.environ.get("VPNS_DEBUG"):
            raise
        what = error.strerror or str(error)
        _refuse(f"{error.filename}: {what}" if error.filename else what)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


def _refuse(reason: str) -> None:
    print(f"vpns: error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vpns <subcommand> [options]      vpns <subcommand> --help",
            "",
            "Visual prompts and weight masks, learned together and compared fairly.",
            "",
            "subcommands:",
            *lines,
            "",
            EXAMPLES,
            "",
            "completion: vpns --print_completion bash > "
            "~/.local/share/bash-completion/completions/vpns",
        ]
    )


if __name__ == "__main__":
    sys.argv[0] = "vpns"  # what a result records as its command
    main()
