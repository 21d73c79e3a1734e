"""Benchmarks: batiste beside raw JAX and its peers, in one run each."""
