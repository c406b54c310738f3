"""Self-supervised methods, one per file: how the views of a batch become a loss, and what is kept between steps."""

from vicreg_jax.methods.barlow_twins import BarlowTwins
from vicreg_jax.methods.branches import Branches
from vicreg_jax.methods.byol import BYOL
from vicreg_jax.methods.corinfomax import CorInfoMax
from vicreg_jax.methods.debiased import DebiasedContrastive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Outputs, Variables
from vicreg_jax.methods.lejepa import LeJEPA
from vicreg_jax.methods.moco import MoCo
from vicreg_jax.methods.simclr import SimCLR
from vicreg_jax.methods.simsiam import SimSiam
from vicreg_jax.methods.triplet import Triplet
from vicreg_jax.methods.vicreg import VICReg
from vicreg_jax.methods.visreg import VISReg

METHODS: dict[str, type[JointEmbedding]] = {
    "vicreg": VICReg,
    "barlow_twins": BarlowTwins,
    "simclr": SimCLR,
    "debiased": DebiasedContrastive,
    "moco": MoCo,
    "byol": BYOL,
    "simsiam": SimSiam,
    "triplet": Triplet,
    "lejepa": LeJEPA,
    "visreg": VISReg,
    "corinfomax": CorInfoMax,
}

__all__ = [
    "BYOL",
    "METHODS",
    "BarlowTwins",
    "Branches",
    "CorInfoMax",
    "DebiasedContrastive",
    "JointEmbedding",
    "LeJEPA",
    "MoCo",
    "Outputs",
    "SimCLR",
    "SimSiam",
    "Triplet",
    "VICReg",
    "VISReg",
    "Variables",
]
