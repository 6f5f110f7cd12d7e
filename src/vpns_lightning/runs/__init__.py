"""A run on disk: its folder, hand-offs, record and metrics, and a network back from them."""
