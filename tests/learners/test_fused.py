"""Several modalities, a branch each, fused and trained jointly."""

import pytest
import torch
from torch.nn import functional

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import load_model, make_learner, save_model

OPTIONS = {"hidden": 8, "min_steps": 150, "epochs": 2}


def modalities(count=200):
    """The class is whether two bits are both set; each modality shows one of them."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (count, 2), generator=generator)
    noise = torch.randn(count, 8, generator=generator)
    shown = torch.repeat_interleave(4.0 * bits, torch.tensor([3, 5]), 1)
    return Rows(shown + noise), bits.sum(1) // 2


def fit(widths="3+5", **options):
    inputs, labels = modalities()
    rows = torch.arange(40)
    learner = make_learner(f"fused:{widths}", **OPTIONS | options)
    return learner, learner.fit(inputs, rows, labels[rows], classes=2, seed=0)


def test_the_network_is_its_formula():
    _, model = fit()
    inputs, labels = modalities()
    net = model.network
    x = (inputs.tensor() - net.standardize.mean) * net.standardize.scale
    first, second = (branch[0] for branch in net.branches)
    fused = torch.cat(
        [
            functional.relu(x[:, :3] @ first.weight.T + first.bias),
            functional.relu(x[:, 3:] @ second.weight.T + second.bias),
        ],
        1,
    )
    out = model.predict(inputs)
    torch.testing.assert_close(out.embeddings, fused.detach())
    torch.testing.assert_close(out.logits, (fused @ net.head.weight.T + net.head.bias).detach())
    assert (out.probs.argmax(1) == labels).float().mean() > 0.95


def test_the_joint_objective_makes_the_fused_network_sure_of_unlabeled_rows():
    inputs, _ = modalities()

    def entropy(objectives):
        probs = fit(objectives=objectives)[1].predict(inputs).probs
        return float(torch.special.entr(probs).sum(1).mean())

    smooth = "cross_entropy:smoothing=0.1"
    assert entropy(f"{smooth}+joint_entropy:weight=0.5") < 0.8 * entropy(smooth)


def test_a_fused_model_draws_and_is_kept(tmp_path):
    learner, model = fit(dropout=0.3)
    inputs, _ = modalities()
    assert model.draws(inputs, samples=2, seed=0).shape == (2, 200, 2)
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", learner=learner)
    assert torch.equal(again.predict(inputs).logits, model.predict(inputs).logits)


def test_fused_refuses_other_widths():
    with pytest.raises(InputError, match=r"rows of 3 \+ 6 entries.*got shape \(8,\)"):
        fit("3+6")
    with pytest.raises(InputError, match="two modalities or more"):
        fit("8")
    with pytest.raises(InputError, match=r"two modalities or more, got .8\+x"):
        fit("8+x")
    with pytest.raises(InputError, match="hidden must be at least 1"):
        fit(hidden=0)
    with pytest.raises(InputError, match=r"hidden must be a whole number, got \(3, 4\)"):
        fit(hidden=(3, 4))
    with pytest.raises(InputError, match=r"dropout must be in \[0, 1\)"):
        fit(dropout=1.0)
