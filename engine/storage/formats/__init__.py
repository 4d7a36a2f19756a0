"""Readers and writers of the formats users already hold: vectors, labels and KNN graphs."""

from engine.storage.formats.export import BinWriter, MetaWriter, write_labels, write_table
from engine.storage.formats.knn_graph import KnnGraphSource, normalise_knn_block, open_knn_graph
from engine.storage.formats.labels import read_labels
from engine.storage.formats.registry import Format, open_source, register_format
from engine.storage.formats.sources import ArraySource, PartedSource, RowNames, SourceOptions, VectorSource

__all__ = [
    "ArraySource",
    "BinWriter",
    "Format",
    "KnnGraphSource",
    "MetaWriter",
    "PartedSource",
    "RowNames",
    "SourceOptions",
    "VectorSource",
    "normalise_knn_block",
    "open_knn_graph",
    "open_source",
    "read_labels",
    "register_format",
    "write_labels",
    "write_table",
]
