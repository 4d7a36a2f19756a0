"""The ways from scored edges to clusters, a module each, by name."""

from engine.partitions.base import Clustered, Edges, Partition, Trial, Work
from engine.partitions.components import ComponentsPartition
from engine.partitions.density_peaks import DensityPeaksPartition
from engine.partitions.map_equation import MapEquationPartition
from engine.partitions.propagation import PropagationPartition

PARTITIONS: dict[str, Partition] = {
    partition.name: partition
    for partition in (ComponentsPartition(), PropagationPartition(), DensityPeaksPartition(), MapEquationPartition())
}
OWN = "own"  # of a method that clusters by itself

__all__ = ["OWN", "PARTITIONS", "Clustered", "Edges", "Partition", "Trial", "Work"]
