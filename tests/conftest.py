"""What all tests share: quiet waiting threads, and this folder on the import path."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# before other packages: typing keeps one of Union[int, float] and Union[float, int] for the whole
# process, the one made first; with the latter a parser reads limit_train_batches=1 as a whole epoch
import lightning.pytorch  # noqa: F401
