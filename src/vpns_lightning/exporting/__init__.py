"""Networks for use elsewhere: files, what they answer checked before they are written, cards."""

from vpns_lightning.exporting.checked import export

__all__ = ["export"]
