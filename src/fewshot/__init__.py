"""Few-shot meta-learning experiments on PyTorch Lightning and Hydra."""

__version__ = "0.1.0"
