"""What all tests share: quiet waiting threads, and nothing taken over from who has started them."""

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# width of help and tables, and what a screen can do, whatever the terminal is
os.environ.update(COLUMNS="80", TERM="xterm-256color")
os.umask(0o022)
# nohup and services start with these ignored, and processes that tests start would inherit it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
