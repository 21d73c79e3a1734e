"""Models whose weights come from PyTorch packages, written with batiste, and how to load them."""
