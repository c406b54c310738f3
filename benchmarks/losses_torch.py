"""Textbook forms of the losses in PyTorch: the mathematics of `losses_textbook`, on a GPU if there is one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, relu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_float32_matmul_precision("highest")  # not TF32


def _off_diagonal_squares(matrix: Tensor) -> Tensor:
    """As in the official code of VICReg and Barlow Twins."""
    n = len(matrix)
    return matrix.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten().pow(2).sum()


def covariance(z: Tensor) -> Tensor:
    centered = z.float() - z.float().mean(dim=0)
    return _off_diagonal_squares(centered.T @ centered / (len(z) - 1)) / z.shape[1]


def vicreg(z_a: Tensor, z_b: Tensor) -> Tensor:
    z_a, z_b = z_a.float(), z_b.float()

    def variance(z: Tensor) -> Tensor:
        return relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()

    invariance = (z_a - z_b).pow(2).mean()
    return 25 * invariance + 25 * (variance(z_a) + variance(z_b)) / 2 + covariance(z_a) + covariance(z_b)


def barlow_twins(z_a: Tensor, z_b: Tensor) -> Tensor:
    def standardized(z: Tensor) -> Tensor:
        z = z.float()
        return (z - z.mean(dim=0)) / torch.sqrt(z.var(dim=0, correction=0) + 1e-5)

    correlation = standardized(z_a).T @ standardized(z_b) / len(z_a)
    return (torch.diagonal(correlation) - 1).pow(2).sum() + 0.0051 * _off_diagonal_squares(correlation)


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.1) -> Tensor:
    u = normalize(torch.cat([z_a, z_b]).float())
    logits = (u @ u.T / temperature).masked_fill(torch.eye(len(u), dtype=torch.bool, device=u.device), -torch.inf)
    return cross_entropy(logits, torch.arange(len(u), device=u.device).roll(len(z_a)))


def debiased(z_a: Tensor, z_b: Tensor, temperature: float = 0.5, positive_prior: float = 0.1) -> Tensor:
    u = normalize(torch.cat([z_a, z_b]).float())
    exponentials = torch.exp(u @ u.T / temperature)
    rows, count = torch.arange(len(u), device=u.device), len(u) - 2
    positive = exponentials[rows, rows.roll(len(z_a))]
    is_negative = rows[:, None] % len(z_a) != rows % len(z_a)
    negatives = (exponentials * is_negative).sum(dim=1)
    estimate = (negatives - positive_prior * count * positive) / (1 - positive_prior)
    minimum = count * np.exp(-1 / temperature).item()
    return -torch.log(positive / (positive + estimate.clamp(min=minimum))).mean()


def info_nce(query: Tensor, positive_key: Tensor, negative_keys: Tensor, temperature: float = 0.07) -> Tensor:
    query, positive_key, negative_keys = (normalize(z.float()) for z in (query, positive_key, negative_keys))
    positive = (query * positive_key).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, query @ negative_keys.T], dim=1) / temperature
    return cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


LOSSES: dict[str, Callable[..., Tensor]] = {
    "covariance": covariance,
    "vicreg": vicreg,
    "barlow_twins": barlow_twins,
    "nt_xent": nt_xent,
    "debiased": debiased,
    "info_nce": info_nce,
}


def value_and_gradient(
    name: str, arrays: list[np.ndarray], dtype: str, *, compiled: bool
) -> tuple[Callable[[], Any], dict[str, float]]:
    """A call that computes the value and the gradients of the first two arrays, and its memory on a GPU."""
    tensors = [torch.from_numpy(array).to(DEVICE, getattr(torch, dtype)) for array in arrays]
    variables = [tensor.requires_grad_() for tensor in tensors[:2]]
    loss = LOSSES[name]
    if compiled:
        torch.compiler.reset()
        loss = torch.compile(loss, dynamic=False)

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = loss(*tensors)
        return value.detach(), torch.autograd.grad(value, variables)

    if DEVICE == "cpu":
        return call, {}
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = call()
    torch.cuda.synchronize()
    results_bytes = sum(gradient.nbytes for gradient in results[1])
    temporary = torch.cuda.max_memory_allocated() - before - results_bytes
    return call, {"temporary_mebibytes": temporary / 2**20}


def wait() -> None:
    """Waits for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
