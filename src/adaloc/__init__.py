"""adaloc: adaptive training of networks that localize single molecules."""

__version__ = "0.1.0"
