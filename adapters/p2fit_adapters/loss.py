"""What a model learns from: next tokens, and a teacher's distribution of them.

Cross-entropy and divergence are computed with their gradients, chunk by chunk, without copies of
the logits in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn.functional import pad

CHUNK = 1 << 20  # logits at a time: what stays in a cache
_NONE = -100  # the target after the last token


@dataclass(frozen=True)
class TopK:
    """A teacher's most probable tokens; all others together are one outcome."""

    ids: torch.Tensor
    """[windows, tokens, k]."""
    chances: torch.Tensor
    """Their logarithms, fp32, as long."""


Guide: TypeAlias = torch.Tensor | TopK
"""What a teacher says of windows: its logits [windows, tokens, vocabulary], or a part of them."""


class Objective:
    """A model's ``loss_function``: the mean over all tokens but the first of each window.

    With a guide it is (1 − weight) · cross-entropy + weight · KL(teacher ‖ model), both in nats a
    token (Hinton et al. 2015, arXiv 1503.02531, at temperature 1; forward, as Minitron, arXiv
    2407.14679). Of a :class:`TopK` the divergence is that of k + 1 outcomes, which is at most the
    whole one and has no bias towards the k.
    """

    def __init__(self, weight: float = 0.0) -> None:
        self.weight = weight
        self.guide: Guide | None = None
        """Of the windows that come next."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, vocab_size: int | None = None, **_: Any
    ) -> torch.Tensor:
        """
        Args:
            logits: [windows, tokens, vocabulary], in any format; sums are fp32.
            labels: [windows, tokens], the ids themselves.
            vocab_size: what some models say besides; it is that of the logits.
        """
        targets = pad(labels[:, 1:], (0, 1), value=_NONE).flatten().to(logits.device)
        guide, weight = self.guide, self.weight if self.guide is not None else 0.0
        said: list[torch.Tensor] = []
        if isinstance(guide, TopK):
            said = [guide.ids.flatten(0, 1), guide.chances.flatten(0, 1)]
        elif guide is not None:
            said = [guide.flatten(0, 1)]
        loss: torch.Tensor = _Mixed.apply(logits.flatten(0, 1), targets, weight, *said)
        return loss


class _Mixed(torch.autograd.Function):  # type: ignore[misc]
    """Computes the gradient beside the loss, in the format of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        weight: float,
        *said: torch.Tensor,
    ) -> torch.Tensor:
        count = int((targets != _NONE).sum())
        gradient = torch.empty_like(logits)
        total = torch.zeros((), device=logits.device)
        rows = max(1, CHUNK // logits.shape[1])
        parts = zip(*(t.split(rows) for t in (logits, targets, gradient, *said)), strict=True)
        for part, wanted, out, *here in parts:
            counts = wanted != _NONE
            at = wanted.clamp(min=0)[:, None]
            scores = part.float()
            sums = scores.logsumexp(1, keepdim=True)
            losses = (1 - weight) * (sums - scores.gather(1, at)).squeeze(1)
            scores = scores.sub(sums)
            if weight:
                apart, scores = (_whole if len(here) == 1 else _top)(scores, weight, *here)
                losses += weight * apart
            else:
                scores.exp_()
            total += (losses * counts).sum()
            scores.scatter_add_(1, at, torch.full_like(sums, weight - 1))
            out.copy_(scores.mul_(counts[:, None] / count))
        ctx.save_for_backward(gradient)
        return total / count

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], *(None for _ in ctx.needs_input_grad[1:])


def _whole(
    scores: torch.Tensor, weight: float, teacher: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL of each row, and q − weight · p, from log q and the teacher's logits."""
    theirs = teacher.float().log_softmax(1)
    chances = theirs.exp()
    apart = theirs.sub_(scores).mul_(chances).sum(1)
    return apart, scores.exp_().sub_(chances, alpha=weight)


def _top(
    scores: torch.Tensor, weight: float, ids: torch.Tensor, theirs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of the teacher's most probable tokens and the rest, which keeps the shape that the
    model gives it."""
    ids = ids.long()
    mine, chances = scores.gather(1, ids), theirs.exp()
    rest = (1 - chances.sum(1)).clamp(min=0)
    outside = scores.scatter(1, ids, -torch.inf).logsumexp(1)
    left = torch.where(rest > 0, rest * (rest.log() - outside), 0.0)
    apart = (chances * (theirs - mine)).sum(1) + left
    kept = torch.where(rest > 0, rest / outside.exp(), 0.0)
    scores = scores.exp_().mul_(1 - weight * kept[:, None])
    return apart, scores.scatter_(1, ids, mine.exp() - weight * chances)
