"""What every room may use: errors, whole files, which process this is."""
