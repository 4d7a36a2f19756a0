"""The partitions, which turn scored edges into clusters: a module each, listed here by name."""

from engine.partitions.base import Clustered, Edges, Partition, Trial, Work
from engine.partitions.components import ComponentsPartition
from engine.partitions.density_peaks import DensityPeaksPartition
from engine.partitions.map_equation import MapEquationPartition
from engine.partitions.propagation import PropagationPartition

PARTITIONS: dict[str, Partition] = {
    partition.name: partition
    for partition in (ComponentsPartition(), PropagationPartition(), DensityPeaksPartition(), MapEquationPartition())
}
OWN = "own"  # stands for the partition of a method that clusters by itself

__all__ = ["OWN", "PARTITIONS", "Clustered", "Edges", "Partition", "Trial", "Work"]
