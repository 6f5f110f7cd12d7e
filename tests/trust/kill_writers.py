"""Kill processes that write the files of a run, at random moments; print what was left."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from toy_folder import finished_network, write_folder
from vpns_lightning.base.files import sweep_temporaries
from vpns_lightning.runs.handoff import load_network
from vpns_lightning.training.callbacks import AtomicCheckpointIO


def write_for_ever(folder: Path) -> None:
    io, network = AtomicCheckpointIO(), finished_network()
    state = {f"w{i}": torch.rand(256, 256) for i in range(8)}
    step = 0
    while True:
        step += 1
        io.save_checkpoint({"state_dict": state, "step": step}, folder / "last.ckpt")
        write_folder(folder, network)
        (folder / "going").touch()


def killed(folder: Path, seconds: float) -> None:
    (folder / "going").unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            write_for_ever(folder)
        finally:
            os._exit(1)
    while not (folder / "going").exists():
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main(folders: list[Path], kills: int) -> None:
    torch.set_num_threads(1)
    draw = random.Random(0)
    unloadable, strays = 0, 0
    network = finished_network()
    for index in range(kills):
        folder = folders[index % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        killed(folder, draw.uniform(0, 0.15))
        try:
            AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")
            load_network(folder / "handoff.safetensors", network)
        except ValueError:
            unloadable += 1
        sweep_temporaries(folder)
        strays += len(list(folder.rglob("*.tmp")))
    print(json.dumps({"kills": kills, "unloadable": unloadable, "strays": strays}))


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[2:]], int(sys.argv[1]))
