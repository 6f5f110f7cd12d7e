"""Names that stages had in version 0.1.0, and have now: what was written then is read as before."""

from collections.abc import Mapping
from typing import Any

RENAMED_STAGES = {"prompt": "prompt_tuning"}


def present_stage(name: str) -> str:
    """Return the name that a stage has now."""
    return RENAMED_STAGES.get(name, name)


def with_present_stages(by_stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept by stage under the names that stages have now."""
    return {present_stage(name): value for name, value in by_stage.items()}
