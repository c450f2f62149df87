"""GRACE's codebook: keys in balls, how an edit adds, expands or splits them, and the output of W_v
with the values of the rows that end in a ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wise.editors.router import token_selection
from wise.editors.routing_inputs import select
from wise.edits import Edit
from wise.lm.tail import Tail

__all__ = [
    "Codebook",
    "CodebookRoute",
    "Learn",
    "descended",
    "nearest",
    "places",
    "replaced",
    "scope",
    "written",
]

_COINCIDE = 1e-4  # of a key's norm: below it two keys are one, whatever batch they come from
_HAIR = 1e-3  # of a distance: what a ball reaches for lies inside it, not on its edge

Learn = Callable[[Edit, Float[Tensor, " D"] | None], Float[Tensor, " D"]]


@dataclass(frozen=True)
class Codebook:
    """N entries: a key, the radius of its ball, a value, and the edits that made them, in order."""

    keys: Float[Tensor, "N M"]
    radii: Float[Tensor, " N"]
    values: Float[Tensor, "N D"]
    members: tuple[tuple[Edit, ...], ...] = ()

    @classmethod
    def empty(cls, n_inner: int, n_hidden: int, device: torch.device) -> Codebook:
        keys, values = torch.zeros(0, n_inner), torch.zeros(0, n_hidden)
        return cls(keys.to(device), torch.zeros(0, device=device), values.to(device))

    def __len__(self) -> int:
        return len(self.members)


def nearest(
    keys: Float[Tensor, "N M"], queries: Float[Tensor, "B M"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """The Euclidean distance from each query to its nearest key, and which one it is."""
    distances = torch.cdist(
        queries.float(), keys.float(), compute_mode="donot_use_mm_for_euclid_dist"
    )  # B N
    found = distances.min(-1)
    return found.values, found.indices


def scope(
    codebook: Codebook, queries: Float[Tensor, "B M"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """How deep each query lies in the ball of its nearest key (positive = inside), and which."""
    distance, index = nearest(codebook.keys, queries)
    return codebook.radii[index] - distance, index


def written(
    codebook: Codebook, edit: Edit, key: Float[Tensor, " M"], *, radius: float, learn: Learn
) -> Codebook:
    """The codebook after an edit; `radius` is that of a new ball.

    Far from all keys: a new entry. Near one of the same target: its ball expands to hold the new
    key, and its value is learned on. Near one of another target: both balls end half-way, but
    none grows; where the two keys coincide the last write wins. Source: Hartvigsen et al. 2023,
    Algorithm 1.
    """
    if not len(codebook):
        return _added(codebook, edit, key, radius, learn)
    distances, indices = nearest(codebook.keys, key[None])
    distance, index = float(distances), int(indices)
    ball = float(codebook.radii[index])
    if distance > ball + radius:
        return _added(codebook, edit, key, radius, learn)
    if codebook.members[index][-1].target == edit.target:
        return _expanded(codebook, index, edit, max(ball, distance * (1 + _HAIR)), learn)
    if distance <= _COINCIDE * float(key.float().norm()):
        keep = [i for i in range(len(codebook)) if i != index]
        return written(_chosen(codebook, keep), edit, key, radius=radius, learn=learn)
    radii = codebook.radii.clone()
    radii[index] = min(ball, distance / 2)
    return _added(replace(codebook, radii=radii), edit, key, distance / 2, learn)


def _added(codebook: Codebook, edit: Edit, key: Tensor, radius: float, learn: Learn) -> Codebook:
    radii = codebook.radii
    return Codebook(
        torch.cat([codebook.keys, key[None]]),
        torch.cat([radii, radii.new_tensor([radius])]),
        torch.cat([codebook.values, learn(edit, None)[None]]),
        (*codebook.members, (edit,)),
    )


def _expanded(codebook: Codebook, index: int, edit: Edit, radius: float, learn: Learn) -> Codebook:
    radii, values, members = codebook.radii.clone(), codebook.values.clone(), list(codebook.members)
    radii[index] = radius
    members[index] = (*members[index], edit)
    values[index] = learn(edit, codebook.values[index])
    return Codebook(codebook.keys, radii, values, tuple(members))


def _chosen(codebook: Codebook, indices: Sequence[int]) -> Codebook:
    rows = torch.tensor(indices, dtype=torch.long, device=codebook.keys.device)
    members = tuple(codebook.members[i] for i in indices)
    return Codebook(codebook.keys[rows], codebook.radii[rows], codebook.values[rows], members)


def descended(
    tail: Tail,
    where: Bool[Tensor, "1 T 1"],
    value: Float[Tensor, " D"],
    *,
    lr: float,
    n_steps: int,
    early_stop: float,
) -> Float[Tensor, " D"]:
    """`value` after Adam on the loss of one row that has it as the output of W_v `where`.

    Raises ValueError where loss or value stop being numbers.
    """
    value = value.clone().requires_grad_()
    optimizer = torch.optim.Adam([value], lr=lr)
    for _ in range(n_steps):
        with torch.enable_grad():
            logits = tail.logits(torch.where(where, value.to(tail.value.dtype), tail.value))
            loss = nn.functional.cross_entropy(logits.float(), tail.labels)
        if not torch.isfinite(loss):
            raise ValueError(f"loss={loss.item()} at lr={lr}; lower lr")
        if loss.item() <= early_stop:
            break
        (value.grad,) = torch.autograd.grad(loss, value)
        optimizer.step()
    if not value.isfinite().all():
        raise ValueError(f"lr={lr} made a value that is no number; lower lr")
    return value.detach()


@dataclass
class CodebookRoute:
    """The entry of each row (-1 = none): decided at the first forward, kept for those after it."""

    prompt_mask: Bool[Tensor, "B T"]
    replacement: str = "last"
    choice: Int[Tensor, " B"] | None = None


def places(prompt_mask: Bool[Tensor, "B T"], replacement: str) -> Bool[Tensor, "B T"]:
    """The tokens that get the value: the "last" of the prompt, or the whole "prompt"."""
    if replacement == "prompt":
        return prompt_mask
    return token_selection(prompt_mask, "last")


def replaced(codebook: Codebook, route: CodebookRoute, inputs: Tensor, output: Tensor) -> Tensor:
    """W_v's output with the values of the rows in scope; the others keep their bits.

    A step with a key-value cache stays as it is: what its prompt got is in the cache.
    """
    n_prompts, width = route.prompt_mask.shape
    if inputs.ndim == 2:  # some blocks flatten rows and tokens
        n_rows = len(inputs) // width if route.choice is None else len(route.choice)
        shaped = (x.view(n_rows, -1, x.shape[-1]) for x in (inputs, output))
        return replaced(codebook, route, *shaped).view_as(output)
    if route.choice is None:
        copies = len(inputs) // n_prompts  # beams come as neighbouring rows
        route.prompt_mask = route.prompt_mask.repeat_interleave(copies, dim=0)
        depth, index = scope(codebook, select(inputs, route.prompt_mask, "last").keys[:, 0])
        route.choice = torch.where(depth > 0, index, -1)
    elif inputs.shape[1] <= width:
        return output
    in_scope = (route.choice >= 0)[:, None] & places(route.prompt_mask, route.replacement)
    in_scope = nn.functional.pad(in_scope, (0, inputs.shape[1] - width))  # B T
    values = codebook.values[route.choice].to(output.dtype)[:, None]  # B 1 D
    return torch.where(in_scope[..., None], values, output)
