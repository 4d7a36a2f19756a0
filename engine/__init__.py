"""Asterism: cluster embeddings by identity at scale."""

__version__ = "0.1.0"
