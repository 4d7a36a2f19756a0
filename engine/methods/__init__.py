"""The published methods, one file each, by name."""

from engine.config import MethodName
from engine.methods.base import Graph, Method, Model, read_model
from engine.methods.baselines import KINDS, Baseline
from engine.methods.cdp import Cdp, CdpMediator
from engine.methods.cosine import Cosine
from engine.methods.fc_es import FcEs, FcEser
from engine.methods.gcn_d import GcnD
from engine.methods.gcn_e import GcnE
from engine.methods.gcn_v import GcnV
from engine.methods.l_gcn import LGcn
from engine.methods.self_trained import SelfTrained
from engine.methods.star_fc import StarFc
from engine.methods.star_fc_hierarchical import StarFcHierarchical
from engine.methods.structural import Structural

METHODS: dict[MethodName, Method] = {
    "cosine": Cosine(),
    "self_trained": SelfTrained(),
    "star_fc": StarFc(),
    "star_fc_hierarchical": StarFcHierarchical(),
    "structural": Structural(),
    "gcn_v": GcnV(),
    "gcn_e": GcnE(),
    "l_gcn": LGcn(),
    "gcn_d": GcnD("gcn_d", segments=False),
    "gcn_s": GcnD("gcn_s", segments=True),
    "cdp": Cdp(),
    "cdp_mediator": CdpMediator(),
    "fc_es": FcEs(),
    "fc_eser": FcEser(),
    **{name: Baseline(name) for name in KINDS},
}

__all__ = ["METHODS", "Graph", "Method", "Model", "read_model"]
