"""One file a network, each read top to bottom in the order of its forward pass."""
