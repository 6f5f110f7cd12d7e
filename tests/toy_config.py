"""A small config of ``vpns fit``, to be changed by tests."""

import json
from typing import Any

Config = dict[str, Any]

BASE: Config = {
    "network": {
        "backbone": "squeezenet1_1",
        "prompt": {"class_path": "PadPrompt", "init_args": {"canvas_size": 32, "pad_size": 4}},
        "mapping": "IdentityMapping",
    },
    "find": {"pruner": "Hydra", "sparsity": 0.5, "epochs": 1},
    "tune": {"epochs": 1},
    "data": {"class_path": "Digits", "init_args": {"input_size": 32, "batch_size": 16}},
    "trainer": {
        "accelerator": "cpu",
        "limit_train_batches": 1,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "enable_progress_bar": False,
    },
}


def laid(key: str, value: object) -> Config:
    """Return the base config with a dotted key set."""
    config: Config = json.loads(json.dumps(BASE))
    *sections, last = key.split(".")
    place = config
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    return config
