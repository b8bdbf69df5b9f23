"""pytest-gates: claims about GPU training as executable contracts."""

__version__ = "0.1.0"
