"""The parser of the commands that take no config: what is wrong is said in one line."""

import argparse
from typing import NoReturn

from vpns_lightning.base.errors import UserError


class OneLineParser(argparse.ArgumentParser):
    """A parser that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and where the options are explained.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{message}; see {self.prog} --help")
