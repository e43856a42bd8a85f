"""Video-level 4D convolutional networks (Zhang et al., ICLR 2020): data, training, testing."""

__version__ = "0.1.0"
