"""batiste: neural networks for JAX as pure functions over named state."""
