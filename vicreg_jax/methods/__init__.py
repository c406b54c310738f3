"""How views become a loss, and what a method carries between steps: one file a method."""

from vicreg_jax.methods.vicreg import Outputs, VICReg

METHODS = {"vicreg": VICReg}

__all__ = ["METHODS", "Outputs", "VICReg"]
