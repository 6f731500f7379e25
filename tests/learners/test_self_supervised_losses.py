"""Self-supervised losses: by hand in float64, and where their gradients stop."""

import math

import pytest
import torch

from labelwise.learners.objectives.barlow_twins import barlow_loss, cross_correlation
from labelwise.learners.objectives.byol import byol_loss
from labelwise.learners.objectives.dino import dino_loss
from labelwise.learners.objectives.moco import info_nce
from labelwise.learners.objectives.simclr import nt_xent
from labelwise.learners.objectives.simsiam import simsiam_loss
from labelwise.learners.objectives.vicreg import vicreg_loss


def views(count=5, width=3, number=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, count, width, generator=generator, dtype=torch.float64)


def cosine(one, other):
    lengths = math.sqrt(float((one * one).sum())) * math.sqrt(float((other * other).sum()))
    return float((one * other).sum()) / lengths


class TestLossesByHand:
    def test_simclr(self):
        first, second = views()
        seen = [*first, *second]
        total = 0.0
        for i, one in enumerate(seen):
            near = [math.exp(cosine(one, other) / 0.3) for other in seen]
            total -= math.log(near[(i + 5) % 10] / (sum(near) - near[i]))
        assert float(nt_xent(first, second, 0.3)) == pytest.approx(total / 10, rel=1e-12)

    def test_moco(self):
        (queries, keys), negatives = views(), views(4, 3, 1, seed=1)[0]
        negatives /= negatives.norm(dim=1, keepdim=True)
        total = 0.0
        for query, key in zip(queries, keys):
            mine = math.exp(cosine(query, key) / 0.2)
            others = sum(math.exp(cosine(query, other) / 0.2) for other in negatives)
            total -= math.log(mine / (mine + others))
        found = info_nce(queries, keys, negatives, 0.2)
        assert float(found) == pytest.approx(total / 5, rel=1e-12)

    def test_simsiam_and_byol(self):
        p1, p2, z1, z2 = views(number=4)
        there = [cosine(p, z) for p, z in zip(p1, z2)]
        back = [cosine(p, z) for p, z in zip(p2, z1)]
        mean = sum(there + back) / 5
        assert float(simsiam_loss(p1, p2, z1, z2)) == pytest.approx(-mean / 2, rel=1e-12)
        assert float(byol_loss(p1, p2, z1, z2)) == pytest.approx(4 - 2 * mean, rel=1e-12)
        unit = [each / each.norm(dim=1, keepdim=True) for each in (p1, p2, z1, z2)]
        squared = (unit[0] - unit[3]).square().sum(1) + (unit[1] - unit[2]).square().sum(1)
        assert float(byol_loss(p1, p2, z1, z2)) == pytest.approx(float(squared.mean()), rel=1e-12)

    def test_barlow_twins(self):
        first, second = views(40) + torch.tensor([3.0, -1.0, 8.0])
        loss = 0.0
        for i in range(3):
            for j in range(3):
                both = torch.corrcoef(torch.stack([first[:, i], second[:, j]]))[0, 1]
                assert float(cross_correlation(first, second)[i, j]) == pytest.approx(
                    float(both), abs=1e-4
                )
                loss += float((1 - both) ** 2 if i == j else 0.02 * both**2)
        assert float(barlow_loss(first, second, 0.02)) == pytest.approx(loss, rel=1e-4)

    def test_vicreg(self):
        first, second = views(6)
        first = 0.3 * first  # entries that vary too little
        total = 25 * float((first - second).square().mean())
        for seen in (first, second):
            covariance = torch.cov(seen.T)
            narrow = [max(0.0, 1 - math.sqrt(float(v) + 1e-4)) for v in covariance.diagonal()]
            total += 10 * sum(narrow) / 3 / 2
            apart = [covariance[i, j] ** 2 for i in range(3) for j in range(3) if i != j]
            total += 2 * float(sum(apart)) / 3
        found = vicreg_loss(first, second, 25.0, 10.0, 2.0)
        assert float(found) == pytest.approx(total, rel=1e-12)

    def test_dino(self):
        s1, s2, t1, t2 = views(number=4)
        center = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
        total = 0.0
        for student, teacher in ((s1, t2), (s2, t1)):
            for one, other in zip(student, teacher):
                target = [math.exp(float(v) / 0.04) for v in other - center]
                given = [math.exp(float(v) / 0.1) for v in one]
                for a, b in zip(target, given):
                    total -= a / sum(target) * math.log(b / sum(given))
        found = dino_loss(s1, s2, t1, t2, center, 0.1, 0.04)
        assert float(found) == pytest.approx(total / 10, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "learns"),
    [
        (simsiam_loss, (True, True, False, False)),
        (byol_loss, (True, True, False, False)),
        (lambda *seen: dino_loss(*seen, torch.zeros(3), 0.1, 0.04), (True, True, False, False)),
        (lambda a, b, *_: nt_xent(a, b, 0.5), (True, True, False, False)),
    ],
)
def test_gradients_stop_at_targets(loss, learns):
    seen = [each.clone().requires_grad_() for each in views(number=4)]
    loss(*seen).backward()
    assert [each.grad is not None and bool(each.grad.any()) for each in seen] == list(learns)
