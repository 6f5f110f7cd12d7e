"""How this package talks to W&B: whether it can, how loudly, and what it sends of the machine."""

import os
import socket
from pathlib import Path
from typing import Any


def wandb_offline_reason() -> str | None:
    """Return why W&B must run offline here: no key or no network; None if it need not."""
    if os.environ.get("WANDB_MODE") in {"offline", "disabled", "dryrun"}:
        return "WANDB_MODE asks for it"
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    has_key = "WANDB_API_KEY" in os.environ or (
        netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")
    )
    if not has_key:
        return "there is no key (wandb login, or WANDB_API_KEY)"
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=3).close()
    except OSError:
        return f"{name} cannot be reached"
    return None


def wandb_settings(*, offline: bool) -> dict[str, Any]:
    """Return the settings of a W&B run: no console, no inventory of the machine, few words.

    Those with an ``x_`` are W&B's own public names of what it may still rename, so one that the
    installed version does not have is left out.

    Args:
        offline: The run stays on this machine.
    """
    from wandb import Settings  # a second of import, which only its users pay

    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # a progress bar that is redrawn would be nearly all of what is stored; no setting below, since
    # a parser of configs would read this word as false
    os.environ.setdefault("WANDB_CONSOLE", "off")
    wanted = {
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "disable_git": True,
        # online the address of the run is still said
        "silent" if offline else "quiet": True,
    }
    return {key: value for key, value in wanted.items() if key in Settings.model_fields}
