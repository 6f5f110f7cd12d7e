"""The one error class whose cause and remedy lie with the user."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input, said in one line: what was given, what is allowed, what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` for the closest allowed name, or ``""``."""
    choices = list(allowed)
    by_folded = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.5)
    return f" (did you mean {by_folded[found[0]]!r}?)" if found else ""
