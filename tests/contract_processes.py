"""Run every pruner in one of several processes; started by ``test_contract.py``.

python -m torch.distributed.run --nproc_per_node 2 tests/contract_processes.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

import torch

from contract_pruners import found, masks_hash, sparsity_of, state_hash
from toy_run import Parts


def main(folder: Path) -> None:
    """Write the hash of every pruner's final network, and of its masks."""
    rank = os.environ["RANK"]
    torch.set_num_threads(1)
    hashes = {}
    for name, build in found().items():
        sparsity = sparsity_of(name, 0.5)
        parts = Parts(pruner=build(sparsity), sparsity=sparsity, epochs=1)
        parts.warmup = None  # so that masks found without images are those of one process
        parts.fit(folder / name, devices=2, strategy="ddp", enable_progress_bar=False)
        network = parts.network
        hashes[name] = {"network": state_hash(network), "masks": masks_hash(network)}
    (folder / f"{rank}.json").write_text(json.dumps(hashes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
