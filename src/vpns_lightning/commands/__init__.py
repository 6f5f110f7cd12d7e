"""The subcommands of ``vpns``, one file each, with a function ``run(arguments)``."""
