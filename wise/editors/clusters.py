"""An index of keys in balls, each of one target: MELO's, in which every edit has a key.

Yu et al., AAAI 2024, arXiv 2312.11795, section "Vector database".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wise.editors.grace import COINCIDE, HAIR, distances, nearest

__all__ = ["Clusters", "placed", "scope"]


@dataclass(frozen=True)
class Clusters:
    """E keys in C balls: the ball of each key, -1 where it was forgotten, and one target a ball."""

    keys: Float[Tensor, "E M"]
    owners: Int[Tensor, " E"]
    centres: Float[Tensor, "C M"]
    radii: Float[Tensor, " C"]
    targets: tuple[str, ...] = ()

    @classmethod
    def none(cls, inner: int, device: torch.device) -> Clusters:
        keys, radii = torch.zeros(0, inner, device=device), torch.zeros(0, device=device)
        return cls(keys, radii.long(), keys, radii)


def placed(clusters: Clusters, target: str, key: Float[Tensor, " M"], *, radius: float) -> Clusters:
    """The clusters with one more key; `radius` is that of a new ball.

    Far from all balls: a new one. Near one of the same target: the key is taken in, and the ball
    lies anew around the mean of its keys. Near one of another target: the old ball shrinks to half
    of the distance, keys outside it are forgotten, and the key gets a ball of that size. Where the
    key lies on the old centre, all of the old ball is forgotten: the last write wins.

    The released code switches both balls off in the last case.
    """
    if not clusters.targets:
        return _founded(clusters, target, key, radius)
    nearby, indices = nearest(clusters.centres, key[None])
    distance, ball = float(nearby), int(indices)
    own = float(clusters.radii[ball])
    if distance > own + radius:
        return _founded(clusters, target, key, radius)
    if clusters.targets[ball] == target:
        return _joined(clusters, ball, key, radius)
    if distance <= COINCIDE * float(key.norm()):
        return placed(_shrunk(clusters, ball, 0.0), target, key, radius=radius)
    return _founded(_shrunk(clusters, ball, min(own, distance / 2)), target, key, distance / 2)


def _founded(clusters: Clusters, target: str, key: Tensor, radius: float) -> Clusters:
    keys, owners = _with_key(clusters, key, len(clusters.targets))
    radii = torch.cat([clusters.radii, clusters.radii.new_tensor([radius])])
    centres = torch.cat([clusters.centres, key[None]])
    return Clusters(keys, owners, centres, radii, (*clusters.targets, target))


def _joined(clusters: Clusters, ball: int, key: Tensor, radius: float) -> Clusters:
    keys, owners = _with_key(clusters, key, ball)
    members = keys[owners == ball]
    centre = members.mean(0)
    farthest = float(distances(centre[None], members).max())
    at = torch.tensor([ball], device=keys.device)
    grown = clusters.radii.new_tensor([max(farthest * (1 + HAIR), radius)])
    centres = clusters.centres.index_copy(0, at, centre[None])
    radii = clusters.radii.index_copy(0, at, grown)
    return Clusters(keys, owners, centres, radii, clusters.targets)


def _with_key(
    clusters: Clusters, key: Tensor, owner: int
) -> tuple[Float[Tensor, "E M"], Int[Tensor, " E"]]:
    return (
        torch.cat([clusters.keys, key[None]]),
        torch.cat([clusters.owners, clusters.owners.new_tensor([owner])]),
    )


def _shrunk(clusters: Clusters, ball: int, radius: float) -> Clusters:
    """The ball cut down to a radius, without the keys outside; it goes where none is left."""
    apart = distances(clusters.centres[ball : ball + 1], clusters.keys)[0]  # E
    owners = clusters.owners.where((clusters.owners != ball) | (apart < radius), -1)
    radii = clusters.radii.clone()
    radii[ball] = radius
    cut = replace(clusters, owners=owners, radii=radii)
    if bool((owners == ball).any()):
        return cut
    kept = [each for each in range(len(radii)) if each != ball]
    return replace(
        cut, owners=owners - (owners > ball).long(), centres=cut.centres[kept], radii=radii[kept],
        targets=tuple(clusters.targets[each] for each in kept),
    )  # fmt: skip


def scope(
    clusters: Clusters, queries: Float[Tensor, "B M"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """How deep each query lies in the ball of the nearest centre (positive = inside), and which
    of this ball's keys is nearest."""
    distance, ball = nearest(clusters.centres, queries)
    is_own = clusters.owners == ball[:, None]  # B E
    key = distances(queries, clusters.keys).where(is_own, math.inf).argmin(-1)
    return clusters.radii[ball] - distance, key
