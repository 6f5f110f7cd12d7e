"""Help that fits a screen: what an option does and its default, one hop to what a class takes."""

import re
from argparse import SUPPRESS, Action
from typing import Any

from jsonargparse import DefaultHelpFormatter

from vpns_lightning.stages import STAGES

# columns of option names; longer ones have their help on the next line
NAMES = 44
# of a config, besides that of the images
SECTIONS = ("network", *STAGES, "trainer")
HIDDEN = {"print_config"}
# names of types that say something to people who write configs
PLAIN = {"int", "float", "str", "bool", "None", "Optional", "Union", "null"}


class ShortHelp(DefaultHelpFormatter):
    """Help without the lists of every class: ``--find.pruner.help`` gives those, where asked."""

    def __init__(self, prog: str, **options: Any) -> None:  # as argparse calls it
        options = {"max_help_position": NAMES, **options}
        super().__init__(prog, **options)  # type: ignore[no-untyped-call]  # jsonargparse's

    def add_argument(self, action: Action) -> None:
        """Leave out what every section or class has alike, which the description says once."""
        of_a_class = action.dest.endswith(".help")
        of_a_section = action.dest in SECTIONS
        linked = not action.option_strings
        if not (of_a_class or of_a_section or linked or action.dest in HIDDEN):
            super().add_argument(action)

    # argparse has no public way to say what stands behind an option; its own formatters override
    # these two methods as well
    def _get_help_string(self, action: Action) -> str:
        said = (action.help or "").rstrip()
        if not action.option_strings or action.nargs == 0:
            return said
        if action.required:
            return f"{said} (required)"
        default = action.default
        kind = self._get_type_str(action) or ""
        parts = [kind] if set(re.findall(r"\w+", kind)) <= PLAIN and kind else []
        if default is not None and default != SUPPRESS and action.dest not in {"config", "data"}:
            parts.append("default: %(default)s")
        return f"{said} ({', '.join(parts)})" if parts else said

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return action.dest.rpartition(".")[2].upper() if action.dest == "config" else "VALUE"
