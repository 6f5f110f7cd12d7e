"""What a run is, as dashboards search and group by it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vpns_lightning.data import ImageData
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.runs.collecting import method_name
from vpns_lightning.runs.grid_cell import grid_record
from vpns_lightning.stages import MaskFinding

PLAIN = (bool, int, float, str)
LONGEST_TAG = 64  # of W&B


@dataclass(frozen=True)
class Facts:
    """What is known of a run before its first step.

    Attributes:
        headline: Method, data set, backbone, prompt and other names to group by.
        config: These, and every key of the config, flat: ``find/sparsity``.
        tags: Method, data set, backbone and prompt.
    """

    headline: dict[str, Any]
    config: dict[str, Any]
    tags: tuple[str, ...]


def facts_of(
    config: Mapping[str, Any],
    network: PromptedClassifier,
    data: ImageData,
    find: MaskFinding,
    *,
    seed: int,
) -> Facts:
    """Return what a run is.

    Args:
        config: As the run folder keeps it.
        network: The network.
        data: Its data.
        find: The finding stage.
        seed: Of everything random.
    """
    cell = grid_record()
    dataset = data.name
    if dataset == "ImageFolder":  # one class, many data sets
        dataset = f"{dataset} {data.root.resolve().name}"
    prompt = "no prompt" if network.prompt is None else type(network.prompt).__name__
    headline = {
        "method": cell.method if cell and cell.method else method_name(find),
        "dataset": dataset,
        "backbone": network.backbone_name,
        "prompt": prompt,
        "sparsity_requested": find.sparsity,
        "seed": seed,
        **({"grid": cell.name, "cell": cell.cell} if cell else {}),
    }
    tags = (headline["method"], dataset, network.backbone_name, prompt)
    return Facts(
        headline=headline,
        config={**flat(config), **headline},
        tags=tuple(dict.fromkeys(str(tag)[:LONGEST_TAG] for tag in tags)),
    )


def flat(tree: object, prefix: str = "") -> dict[str, Any]:
    """Return path to plain value of every leaf, as ``find/optimizer/init_args/lr``.

    With slashes, as metrics have them: W&B reads a dot in a key as one level of nesting.
    """
    if isinstance(tree, Mapping):
        items = [(str(key).replace(".", "/"), value) for key, value in tree.items()]
    elif isinstance(tree, (list, tuple)) and any(isinstance(each, Mapping) for each in tree):
        items = [(str(place), value) for place, value in enumerate(tree)]
    else:
        plain = tree is None or isinstance(tree, PLAIN)
        return {prefix: tree if plain else list(tree) if isinstance(tree, tuple) else tree}
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= flat(value, f"{prefix}/{key}" if prefix else key)
    return leaves


def scalars(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the single values of a result, and of its stages as ``stages/find/seconds``.

    What describes settings is in the config, layers and channels are in the table.
    """
    kept = {key: value for key, value in result.items() if isinstance(value, PLAIN)}
    for stage, record in (result.get("stages") or {}).items():
        reached = record.get("accuracy") or {}
        kept |= {
            f"stages/{stage}/{key}": value
            for key, value in {**record, **reached}.items()
            if isinstance(value, PLAIN)
        }
    return kept
