"""Weights for timm's networks: its pretrained ones by tag, and files that it can convert."""

from pathlib import Path
from typing import Any

import torch

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.network.fitting import Target
from vpns_lightning.network.specification import TIMM, Specification, timm_package
from vpns_lightning.network.weights import Weights

FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository, the safe one first


def timm_weights_file(spec: Specification, tag: str) -> Path:
    """Return the cached file of timm's pretrained weights, downloaded if it is absent.

    Args:
        spec: Of timm.
        tag: As timm writes it after the dot (``augreg_in21k``), or ``DEFAULT``.

    Raises:
        UserError: There is no such tag, or the file cannot be had.
    """
    timm = timm_package()
    model = spec.name.removeprefix(TIMM)
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    if tag != "DEFAULT" and tag not in tags:
        allowed = ", ".join(["DEFAULT", *tags, "a file path"])
        raise UserError(
            f"weights {tag!r} are neither a file nor known for {spec.name}{nearest(tag, tags)}; "
            f"allowed: {allowed}, or null"
        )
    config: Any = timm.get_pretrained_cfg(model if tag == "DEFAULT" else f"{model}.{tag}")
    if not config.hf_hub_id:
        raise UserError(
            f"timm has no file on the Hugging Face Hub for {spec.name}.{tag}: download "
            f"{config.url or 'it'} and give the file's path"
        )
    return _from_hub(config.hf_hub_id, f"{spec.name} with weights {tag}")


def _from_hub(repository: str, what: str) -> Path:
    from huggingface_hub import hf_hub_download  # comes with timm
    from huggingface_hub.errors import EntryNotFoundError

    for name in FILES:
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except Exception as error:  # of requests, of the file system, and many of the Hub
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{what} could not be downloaded from {repository} ({reason}): fetch its {name} on "
                "another machine and give that file's path as network.weights"
            ) from None
    raise UserError(f"{repository} has no {' or '.join(FILES)}: give a file as network.weights")


def adapted_by_timm(spec: Specification, weights: Weights, target: Target) -> Weights | None:
    """Return weights as timm converts them to this network; None where it cannot.

    Names of other projects become timm's, and position embeddings are resized to another size of
    images.

    Args:
        spec: Of timm.
        weights: As read.
        target: The network.
    """
    timm = timm_package()
    given = dict(weights.state)
    head = f"{target.head}.weight"
    if not target.keeps_head:
        # any classifier will do for timm, which loads strictly with one
        own = {key: value for key, value in target.state.items() if target.of_head(key)}
        given = {key: value for key, value in given.items() if not target.of_head(key)}
        given |= {key: torch.zeros(value.shape) for key, value in own.items()}
    classes = (given if head in given else target.state)[head].shape[0]
    overlay = {"state_dict": given, "num_classes": classes, "label_offset": 0}
    arguments = {**dict(spec.arguments), "num_classes": classes}
    try:
        with torch.random.fork_rng(devices=[]):
            made = timm.create_model(
                spec.name.removeprefix(TIMM),
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                **arguments,
            )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError):
        return None  # strict: the misfit is said by names then
    state = made.state_dict()
    if not target.keeps_head:
        state = {key: value for key, value in state.items() if not target.of_head(key)}
    return weights.noting(state, "converted by timm")
