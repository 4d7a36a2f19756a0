"""Readers and writers of users' formats of vectors, labels and KNN graphs."""
