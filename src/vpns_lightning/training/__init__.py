"""From stages to a finished run: their order, the machine, loggers and callbacks."""
