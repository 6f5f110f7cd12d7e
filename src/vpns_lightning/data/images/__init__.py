"""Reading image files, keeping them decoded, drawing batches of them, augmenting them."""
