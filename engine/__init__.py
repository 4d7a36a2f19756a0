"""Asterism: cluster embeddings by identity at scale."""
