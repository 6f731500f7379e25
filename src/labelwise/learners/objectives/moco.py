"""MoCo: two views of a row are nearer to each other than to rows of earlier minibatches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.learners.objectives.base import Setting, Step
from labelwise.learners.objectives.momentum import MomentumEncoder
from labelwise.learners.objectives.self_supervision import (
    SelfSupervised,
    count,
    make_projector,
    positive,
    precisely,
    rising,
    share,
)
from labelwise.learners.objectives.views import View


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each query's key among the negatives, in nats.

    Args:
        queries, keys: (n, d) projections of two views of the same rows.
        negatives: (m, d) of other rows, m >= 1, of length one.
        temperature: > 0, what cosine similarities are divided by.

    Returns:
        The mean over the queries, each compared with its key and all negatives.

    Source:
        He et al., CVPR 2020, equation 1.

    >>> one, other = torch.eye(2)[:1], torch.eye(2)[1:]
    >>> round(float(info_nce(one, one, other, 1.0)), 4)  # -log(e / (e + 1))
    0.3133
    """
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    mine = (queries * keys).sum(1, keepdim=True)
    similar = torch.cat([mine, queries @ negatives.T], 1) / temperature
    return F.cross_entropy(similar, similar.new_zeros(len(queries), dtype=torch.int64))


class Queue(nn.Module):
    """The newest keys, of length one, and before them noise.

    Args:
        size: keys it holds. width: entries of each. generator: of the noise.
    """

    keys: Tensor
    at: Tensor

    def __init__(self, size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        noise = F.normalize(torch.randn(size, width, generator=generator), dim=1)
        self.register_buffer("keys", noise, persistent=False)
        self.register_buffer("at", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def put(self, keys: Tensor) -> None:
        """Replace the oldest by these (n, d) keys, the last of them the newest."""
        size = len(self.keys)
        keys = F.normalize(keys.float(), dim=1)[-size:]
        places = (self.at + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, places, keys)
        self.at.add_(len(keys)).remainder_(size)


class MoCo(SelfSupervised):
    """`info_nce` of one view against a moving average's projections of the other.

    Args:
        weight: of the loss.
        hidden, width: of the projector, Linear-ReLU-Linear.
        temperature: > 0.
        queue: keys of earlier minibatches to tell a row from; at most two thirds of the
            unlabeled rows, so that few of them are a row's own (on CIFAR-10 the default is that).
        momentum, final_momentum: decay of the moving average, at first and in the end.
        symmetric: whether each view is the query once; the published v2 asks with the first
            alone, at half the cost.

    The defaults are those of solo-learn for CIFAR-10 ("v2+"): symmetric, a queue for each view,
    a momentum that rises. The paper's are ``queue=65536, momentum=0.999`` and constant. It
    shuffles rows between GPUs, because each normalizes its own; here all rows are normalized
    together, where order makes no difference.

    Raises:
        InputError: an option out of range; at the fit, minibatches of one row.

    Source:
        Chen, Fan, Girshick & He, "Improved Baselines with Momentum Contrastive Learning",
        arXiv 2003.04297, 2020.
    """

    name = "moco"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        hidden: int = 2048,
        width: int = 256,
        temperature: float = 0.2,
        queue: int = 32768,
        momentum: float = 0.99,
        final_momentum: float = 0.999,
        symmetric: bool = True,
    ) -> None:
        super().__init__(weight)
        self.hidden, self.width = count("hidden", hidden), count("width", width)
        self.temperature, self.queue = positive("temperature", temperature), count("queue", queue)
        self.momentum = share("momentum", momentum)
        self.final_momentum = share("final_momentum", final_momentum)
        self.symmetric = symmetric

    def prepare(self, setting: Setting) -> None:
        """Make the projector, copy the network, and fill the queues with noise."""
        widths = (setting.embedding_width, self.hidden, self.width)
        self.projector = make_projector(widths, setting.generator, norm=False)
        self.projector.to(setting.device)
        self.encoder = MomentumEncoder(setting, self.projector)
        size = max(1, min(self.queue, 2 * setting.unlabeled // 3))
        # By the view that its keys are of, less one.
        self.queues = nn.ModuleList(
            Queue(size, self.width, setting.generator) for _ in range(2 if self.symmetric else 1)
        )
        self._new: list[Tensor] = []

    def forward(self, unlabeled: View, step: Step, labeled: View | None = None) -> Tensor:
        """The loss, a single number."""
        self._decay = rising(self.momentum, self.final_momentum, step)
        pairs = ((1, 2), (2, 1)) if self.symmetric else ((1, 2),)
        self._new, losses = [], []
        for (asks, answers), queue in zip(pairs, self.queues):
            queries = self.projector(self.look(asks, unlabeled, labeled))
            keys = self.encoder(self.inputs(answers, unlabeled, labeled))
            self._new.append(keys)
            negatives = queue.get_buffer("keys")
            losses.append(
                precisely(info_nce, queries, keys, negatives, temperature=self.temperature)
            )
        return self.weight * torch.stack(losses).mean()

    def after_step(self, network: nn.Module) -> None:
        """Queue the step's keys, and let the moving average follow."""
        for queue, keys in zip(self.queues, self._new):
            queue.put(keys)  # type: ignore[operator]
        self._new = []
        self.encoder.follow(network, self.projector, self._decay)
