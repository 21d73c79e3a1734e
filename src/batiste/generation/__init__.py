"""Generation: continuing sequences of tokens with any model that keeps a cache."""

from batiste.generation._generate import Generated, generate

__all__ = ["Generated", "generate"]
