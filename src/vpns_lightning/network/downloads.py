"""Pretrained weights from the internet, kept once and hashed on every use."""

import hashlib
import os
from pathlib import Path
from urllib.parse import urlparse

import torch

from vpns_lightning.base.errors import UserError


def download(url: str) -> Path:
    """Return the cached file of ``url``, downloaded if absent and hashed on every call.

    torchvision's names end in the first eight hex digits of the SHA-256; the full digest seen at
    the first download is kept beside the file, so that a later change of any byte is noticed.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / os.path.basename(urlparse(url).path)
    prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"pretrained weights could not be downloaded from {url} ({error}): "
                f"fetch that file on another machine and put it at {path}"
            ) from None
    digest = file_sha256(path)
    record = path.with_name(path.name + ".sha256")
    expected = record.read_text().strip() if record.is_file() else prefix
    if not digest.startswith(expected) or not digest.startswith(prefix):
        raise UserError(
            f"pretrained weights {path} have SHA-256 {digest}, expected {expected}...: the file is "
            "cut off or was changed; delete it to download it again"
        )
    if not record.is_file():
        record.write_text(digest + "\n")
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
