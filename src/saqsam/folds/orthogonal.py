"""Random orthogonal matrices that spread every channel evenly over all of them.

A Hadamard matrix does so exactly: all its entries have the same size. Where the width is no power of two,
its odd factor is filled by a uniformly drawn rotation (as QuaRot does, Ashkboos et al. 2024, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor


def spreading(width: int, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix with entries of about ``1 / sqrt(width)``.

    Args:
        width: at least 1.
        generator: on the CPU; draws signs, and the part that no Hadamard matrix fills.

    Returns:
        ``(width, width)`` float64 on the CPU.
    """
    return _even(width, generator) * _signs(width, generator)


def keeping_the_mean(width: int, generator: torch.Generator) -> Tensor:
    """The same, but the all-ones vector, and so every vector's mean, stays as it is."""
    signs = _signs(width, generator)
    signs[0] = 1.0
    # Both factors take the first axis to the direction of all ones: back by one, forth by the other.
    return (_even(width, generator) * signs) @ _reflection(width).T


def _even(width: int, generator: torch.Generator) -> Tensor:
    """Orthogonal, first column constant: a Hadamard matrix, times a drawn one of the width's odd factor."""
    odd = width
    while odd % 2 == 0:
        odd //= 2
    matrix = _reflection(odd)
    if odd > 1:
        matrix[:, 1:] = matrix[:, 1:] @ _uniform(odd - 1, generator)
    while len(matrix) < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]) / 2**0.5
    return matrix


def _reflection(width: int) -> Tensor:
    """Householder's reflection that exchanges the first axis and the direction of all ones."""
    normal = torch.full((width, 1), -(width**-0.5), dtype=torch.float64)
    normal[0] += 1.0
    length = float(normal.square().sum())
    identity = torch.eye(width, dtype=torch.float64)
    return identity if length == 0.0 else identity - 2.0 / length * normal @ normal.T


def _signs(width: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1


def _uniform(width: int, generator: torch.Generator) -> Tensor:
    """Uniformly distributed (Mezzadri 2007): the triangular factor's diagonal is made positive."""
    drawn = torch.randn(width, width, dtype=torch.float64, generator=generator)
    matrix, triangular = torch.linalg.qr(drawn)
    turned: Tensor = matrix * torch.sign(triangular.diagonal())
    return turned
