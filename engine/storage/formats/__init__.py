"""Readers and writers of the formats users already hold: vectors, labels and KNN graphs."""
