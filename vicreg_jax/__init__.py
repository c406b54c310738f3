"""Joint-embedding self-supervised learning in JAX."""

from typing import Any

__version__ = "0.3.0"
__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    # Loaded on demand, so that `import vicreg_jax.losses` needs nothing but jax.
    if name == "load_encoder":
        from vicreg_jax.encoder import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
