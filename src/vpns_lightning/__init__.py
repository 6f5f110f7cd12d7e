"""Visual prompts and weight masks, learned together and compared fairly.

The public names are those of ``__init__.pyi``. They are loaded on first use, so that
``vpns --version`` need not import torch.
"""

from lazy_loader import attach_stub

from vpns_lightning._version import __version__

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
__all__ += ["__version__"]
