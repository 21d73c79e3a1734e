"""The version, in the one place that the build, the command and ``batiste.__version__`` read it from."""

__all__ = ["__version__"]

__version__ = "0.1.0"
