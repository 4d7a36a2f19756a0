"""The partitions, which turn scored edges into clusters: a module each, listed here by name."""

from engine.partitions.base import Clustered, Edges, Partition, Trial, Work
from engine.partitions.components import ComponentsPartition
from engine.partitions.density_peaks import DensityPeaksPartition
from engine.partitions.map_equation import MapEquationPartition
from engine.partitions.propagation import PropagationPartition

_REGISTERED: tuple[Partition, ...] = (
    ComponentsPartition(),
    PropagationPartition(),
    DensityPeaksPartition(),
    MapEquationPartition(),
)
PARTITIONS: dict[str, Partition] = {each.name: each for each in _REGISTERED}
PARTITIONS_VERSION = (
    1  # in the versions of the steps that choose one: raise it with each partition that is added or changed
)
OWN = "own"  # stands for the partition of a method that clusters by itself

__all__ = ["OWN", "PARTITIONS", "PARTITIONS_VERSION", "Clustered", "Edges", "Partition", "Trial", "Work"]
