"""Saving and loading, of every kind of network model; see also `test_networks`."""

import json

import numpy as np
import pytest
import torch
from tests.learners.test_finetune import QUICK, fit, images, timm  # noqa: F401
from torch import nn

from labelwise.errors import DataError, InputError
from labelwise.kernels import Rows
from labelwise.learners import (
    MLP,
    CrossEntropy,
    Job,
    Network,
    ResNet18,
    fit_many,
    list_objectives,
    load_model,
    make_learner,
    make_objective,
    model_evidence,
    save_model,
)

SMALL = {"epochs": 2, "min_steps": 4, "minibatch": 8, "unlabeled_minibatch": 8}


def blobs(count=40, width=6):
    generator = torch.Generator().manual_seed(0)
    inputs = Rows(torch.randn(count, width, generator=generator))
    return inputs, torch.arange(count) % 3


def test_a_model_that_was_fitted_among_others_is_kept(tmp_path):
    inputs, labels = blobs()
    rows = torch.arange(20)
    jobs = [Job(rows, labels[rows], seed) for seed in range(2)]
    models, apart = fit_many(MLP(hidden=4, **SMALL), inputs, jobs, classes=3)
    assert apart == ""
    again = load_model(save_model(models[1], tmp_path))
    assert torch.equal(again.predict(inputs).logits, models[1].predict(inputs).logits)
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["history"]["player_losses"] == {}


def tied(shape, classes):
    first, second = nn.Linear(shape[0], shape[0]), nn.Linear(shape[0], shape[0])
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(shape[0], classes))


def test_weights_that_layers_share_are_kept(tmp_path):
    inputs, labels = blobs()
    learner = Network(tied, name="tied", **SMALL)
    model = learner.fit(inputs, torch.arange(20), labels[:20], classes=3, seed=0)
    again = load_model(save_model(model, tmp_path), learner=learner)
    assert torch.equal(again.predict(inputs).logits, model.predict(inputs).logits)
    assert again.network[0].weight is again.network[2].weight


@pytest.mark.parametrize("name", list_objectives())
def test_what_every_objective_learned_is_kept(name, tmp_path):
    """With a small ResNet, since some are for images alone."""
    objective = make_objective(name)
    summed = [objective] if objective.learns_labels else ["cross_entropy", objective]
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (24, 8, 8, 3), generator=generator).to(torch.uint8)
    inputs, rows = Rows(pixels), torch.arange(12)
    learner = ResNet18(width=4, objectives=summed, **SMALL)
    model = learner.fit(inputs, rows, rows % 3, classes=3, seed=0)
    again = load_model(save_model(model, tmp_path))
    assert torch.equal(again.predict(inputs).logits, model.predict(inputs).logits)
    assert again.signature == model.signature
    given, found = (
        {each.__name__: each() for each in each.objective_evidence(inputs)}
        for each in (model, again)
    )
    assert given.keys() == found.keys() == set(objective.gives)
    for evidence, values in given.items():
        assert torch.equal(values, found[evidence]), evidence


def test_fused_and_tuned_networks_are_loaded_by_name(timm, tmp_path):  # noqa: F811
    inputs, labels = blobs()
    learner = make_learner("fused:2+4", hidden=5, dropout=0.2, **SMALL)
    model = learner.fit(inputs, torch.arange(20), labels[:20], classes=3, seed=0)
    again = load_model(save_model(model, tmp_path / "fused"))
    assert torch.equal(again.predict(inputs).logits, model.predict(inputs).logits)
    pixels, _ = images()
    for tune in ("full", "lora", "head"):
        model = fit(timm, tune=tune)
        again = load_model(save_model(model, tmp_path / tune))
        assert torch.equal(again.predict(pixels).logits, model.predict(pixels).logits)
        assert again.signature == model.signature


def test_a_loaded_network_still_knows_distinctiveness(timm, tmp_path):  # noqa: F811
    pixels, labels = images()
    generator = torch.Generator().manual_seed(5)
    centers = torch.randint(0, 255, (7, 8, 8, 3), generator=generator).to(torch.uint8)
    np.save(tmp_path / "centers.npy", centers.numpy())
    options = {"source_centers": str(tmp_path / "centers.npy"), "source_layers": ("bn1", "fc1")}
    learner = make_learner("finetune:timm:tiny", weights=timm, **options, **QUICK)
    model = learner.fit(pixels, torch.arange(8), labels[:8], classes=2, seed=0)
    save_model(model, tmp_path / "model")
    plain, again = (
        load_model(tmp_path / "model", learner=given, device="cpu") for given in (None, learner)
    )

    def known(model):
        return {each.__name__: each for each in model_evidence(model, pixels, seed=0)}

    assert "distinctiveness" not in known(plain)
    assert torch.equal(known(again)["distinctiveness"](), known(model)["distinctiveness"]())
    assert again.recipe.device == "cpu"


class Mine(CrossEntropy):
    def signature(self):
        return {"name": "mine", "sizes": (1, 2)}


def test_objectives_of_the_users_need_the_learner(tmp_path):
    inputs, labels = blobs()
    learner = MLP(hidden=4, objectives=[Mine()], **SMALL)
    model = learner.fit(inputs, torch.arange(20), labels[:20], classes=3, seed=0)
    save_model(model, tmp_path)
    with pytest.raises(InputError, match=r"objective 'mine' of the model.*load_model\(\.\.\., le"):
        load_model(tmp_path)
    again = load_model(tmp_path, learner=learner)
    assert torch.equal(again.predict(inputs).logits, model.predict(inputs).logits)
    with pytest.raises(InputError, match=r"hidden \[4\] there, \[5\] here"):
        load_model(tmp_path, learner=MLP(hidden=5, objectives=[Mine()], **SMALL))


def test_weights_of_another_model_are_not_taken_for_this_ones(tmp_path):
    """What a process leaves that is killed between the two files of a second model."""
    inputs, labels = blobs()
    for seed in range(2):
        model = MLP(hidden=4, **SMALL).fit(
            inputs, torch.arange(20), labels[:20], classes=3, seed=seed
        )
        save_model(model, tmp_path / str(seed))
    (tmp_path / "1" / "model.safetensors").replace(tmp_path / "0" / "model.safetensors")
    with pytest.raises(DataError, match=r"are not those of its model\.json"):
        load_model(tmp_path / "0")
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        load_model(tmp_path / "1")


@pytest.mark.parametrize("learner", [{}, {"name": "mlp"}, [], {"name": 3, "objectives": []}])
def test_a_card_without_a_learner_is_one_line(learner, tmp_path):
    inputs, labels = blobs()
    model = MLP(hidden=4, **SMALL).fit(inputs, torch.arange(20), labels[:20], classes=3, seed=0)
    save_model(model, tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(card | {"learner": learner}))
    with pytest.raises(DataError, match="holds no saved model"):
        load_model(tmp_path)
