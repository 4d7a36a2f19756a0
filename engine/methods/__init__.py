"""The published methods, one file each, by name."""

from engine.config import MethodName
from engine.methods.base import GraphShape, Method, Model, read_model
from engine.methods.cosine import Cosine

METHODS: dict[MethodName, Method] = {"cosine": Cosine()}

__all__ = ["METHODS", "GraphShape", "Method", "Model", "read_model"]
