"""snapper packs built conda environments into a store and brings them back, kernels included."""

__version__ = "0.1.0"
