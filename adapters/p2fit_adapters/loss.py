"""The cross-entropy of next tokens, without copies of the logits in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad

CHUNK = 1 << 20  # logits at a time: what stays in a cache
_NONE = -100  # the target after the last token


def next_token_loss(
    logits: torch.Tensor, labels: torch.Tensor, vocab_size: int | None = None, **_: Any
) -> torch.Tensor:
    """Mean over all tokens but the first of each window, as a model's ``loss_function``.

    Args:
        logits: [windows, tokens, vocabulary], in any format; sums are fp32.
        labels: [windows, tokens], the ids themselves.
        vocab_size: what some models say besides; it is that of the logits.
    """
    targets = pad(labels[:, 1:], (0, 1), value=_NONE).flatten().to(logits.device)
    loss: torch.Tensor = _CrossEntropy.apply(logits.flatten(0, 1), targets)
    return loss


class _CrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """Computes the gradient beside the loss, chunk by chunk, in the format of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count = int((targets != _NONE).sum())
        gradient = torch.empty_like(logits)
        total = torch.zeros((), device=logits.device)
        rows = max(1, CHUNK // logits.shape[1])
        parts = zip(logits.split(rows), targets.split(rows), gradient.split(rows), strict=True)
        for part, wanted, out in parts:
            counts = wanted != _NONE
            at = wanted.clamp(min=0)[:, None]
            scores = part.float()
            sums = scores.logsumexp(1, keepdim=True)
            total += ((sums - scores.gather(1, at)).squeeze(1) * counts).sum()
            scores = scores.sub(sums).exp_()
            scores.scatter_add_(1, at, torch.full_like(sums, -1.0))
            out.copy_(scores.mul_(counts[:, None] / count))
        ctx.save_for_backward(gradient)
        return total / count

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None
