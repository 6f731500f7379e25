"""Self-supervised pretraining: what it leaves behind, how it goes on, and the encoder it makes."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from labelwise.errors import DataError, InputError, ResultsError
from labelwise.learners import (
    MLP,
    Looks,
    Network,
    Objective,
    Recipe,
    StreamingEncoder,
    encode_data,
    load_model,
    make_encoder,
    pretrain,
)
from labelwise.learners.diagnostics import effective_rank, knn_accuracy, spread
from labelwise.learners.pretrained import Pretrained
from labelwise.learners.recipe import make_optimizer
from labelwise.pools import ArrayPool, Data, ImagePool, PixelImages

METHOD = "simclr:hidden=16:width=8"
OPTIONS = {"network_options": {"hidden": 12}, "unlabeled_minibatch": 32, "every": 2}


def blobs(count=150, known=90, seed=0):
    """Three classes told apart by 4 of 20 entries that go together; few labels, a test set."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count + 60) % 3
    rows = generator.normal(size=(count + 60, 20)).astype(np.float32)
    rows[:, :12] += 2 * np.repeat(np.eye(3), 4, 1)[labels]
    shown = np.where(np.arange(count) < known, labels[:count], -1)
    return Data(
        pool=ArrayPool(rows[:count]),
        labels=shown,
        test=ArrayPool(rows[count:], [f"t{i}" for i in range(60)]),
        test_labels=labels[count:],
        classes=["a", "b", "c"],
        name="blobs",
    )


def images(count=48):
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    labels = np.full(count, -1)
    return Data(ImagePool(PixelImages(pixels)), labels, None, None, ["a", "b"], "images")


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def tensors(folder):
    return (folder / "model.safetensors").read_bytes()


class Stopped(Exception):
    """The process is gone."""


def test_it_learns_logs_and_is_an_encoder(tmp_path):
    heard = []
    options = {"method": METHOD, "epochs": 12, "learning_rate": 0.02, **OPTIONS}
    done = pretrain(blobs(), tmp_path, listener=heard.append, **options)
    log = lines(tmp_path)
    assert [line["epoch"] for line in log] == list(range(1, 13))
    assert log[-1]["loss"] < log[0]["loss"] - 0.03
    assert [line["epoch"] for line in log if "knn" in line] == [2, 4, 6, 8, 10, 12]
    assert {"spread", "effective_rank", "knn", "knn_test"} == set(done.found)
    assert done.found["knn_test"] > 0.9
    idle = {**options, "epochs": 1, "learning_rate": 1e-9}
    untrained = pretrain(blobs(), tmp_path / "untrained", **idle)
    assert untrained.found["knn_test"] < 0.83
    assert done.found["spread"] > 0.2
    assert done.minibatch == 32
    assert heard[-1].left == 0
    assert not (tmp_path / "checkpoint").exists()
    encoder = make_encoder(f"pretrained:{tmp_path}")
    encoded = encode_data(blobs(), encoder, seed=0, cache=tmp_path / "cache")
    assert encoded.pool.shape == (150, 12)
    model = load_model(tmp_path)
    raw = model.predict(encode_data(blobs(), make_encoder("identity"), seed=0).pool).embeddings
    torch.testing.assert_close(encoded.pool.tensor(), F.normalize(raw, dim=1))
    # once more, and nothing is done
    again = pretrain(blobs(), tmp_path, listener=heard.append, **options)
    assert again == done
    assert len(heard) == 12


def test_broken_off_it_goes_on_to_the_same_weights(tmp_path):
    options = {"method": METHOD, "epochs": 6, **OPTIONS}
    pretrain(blobs(), tmp_path / "whole", **options)

    def listener(seen):
        if seen.passed.epoch == 5:
            raise Stopped

    with pytest.raises(Stopped):
        pretrain(blobs(), tmp_path / "broken", listener=listener, **options)
    with pytest.raises(DataError, match="is not finished: run the same pretrain again"):
        make_encoder(f"pretrained:{tmp_path / 'broken'}")
    pretrain(blobs(), tmp_path / "broken", **options)
    assert tensors(tmp_path / "broken") == tensors(tmp_path / "whole")
    whole, broken = lines(tmp_path / "whole"), lines(tmp_path / "broken")
    for line in whole + broken:
        del line["seconds"]
    assert whole == broken


SPOILED_FROM = [0]  # outside of what is restored


class Spoiled(Objective):
    """Not finite from a step on."""

    def forward(self, unlabeled, step):
        loss = unlabeled.embeddings.square().mean()
        return loss * (float("nan") if step.number >= SPOILED_FROM[0] else 1.0)

    def signature(self):
        return {"name": "spoiled"}


def test_a_loss_that_diverges_leaves_the_last_good_checkpoint(tmp_path):
    options = {"method": Spoiled(), "epochs": 6, **OPTIONS}
    SPOILED_FROM[:] = [17]
    said = r"the loss is nan at step 17 of 30 with learning rate [\d.e-]+: lower learning_rate"
    with pytest.raises(InputError, match=said) as ended:
        pretrain(blobs(), tmp_path / "broken", **options)
    assert "\n" not in str(ended.value)
    assert len(lines(tmp_path / "broken")) == 3
    state = tmp_path / "broken" / "checkpoint"
    assert json.loads((state / "checkpoint.json").read_text())["epoch"] == 2
    (kept,) = state.glob("*.safetensors")
    assert all(bool(each.isfinite().all()) for each in load_file(kept).values())
    with pytest.raises(DataError, match="is not finished"):
        make_encoder(f"pretrained:{tmp_path / 'broken'}")
    # It is good: from it the pretraining goes on to where it would have come.
    SPOILED_FROM[:] = [99]
    pretrain(blobs(), tmp_path / "broken", **options)
    pretrain(blobs(), tmp_path / "whole", **options)
    assert tensors(tmp_path / "broken") == tensors(tmp_path / "whole")


def test_epochs_are_those_asked_for_whatever_the_learner_trains_by_itself(tmp_path):
    learner = MLP(hidden=12, min_steps=300, unlabeled_minibatch=50)
    done = pretrain(blobs(), tmp_path, method=METHOD, network=learner, epochs=2)
    assert (done.epochs, done.steps) == (2, 6)


def test_another_pretraining_is_refused(tmp_path):
    options = {"method": METHOD, "epochs": 1, **OPTIONS}
    pretrain(blobs(), tmp_path, **options)
    for change, message in (
        ({"seed": 1}, r"another seed \(0 there, 1 here\)"),
        ({"method": "simclr:hidden=17:width=8"}, r"another method \(hidden 16 there, 17 here\)"),
        ({"epochs": 2}, r"another length \(epochs 1 there, 2 here\)"),
        ({"learning_rate": 1.0}, "another network"),
    ):
        with pytest.raises(ResultsError, match=message):
            pretrain(blobs(), tmp_path, **{**options, **change})
    with pytest.raises(ResultsError, match="another pool"):
        pretrain(blobs(seed=1), tmp_path, **options)
    with pytest.raises(InputError, match="exclude each other"):
        pretrain(blobs(), tmp_path, minutes=1.0, **options)


def test_minutes_are_turned_into_epochs_once(tmp_path):
    done = pretrain(blobs(), tmp_path, method=METHOD, minutes=0.01, **OPTIONS)
    card = json.loads((tmp_path / "pretraining.json").read_text())
    assert done.epochs == card["epochs"] >= 1
    assert pretrain(blobs(), tmp_path, method=METHOD, minutes=0.01, **OPTIONS) == done


def test_images_by_a_convolutional_network_with_lars(tmp_path):
    done = pretrain(
        images(), tmp_path / "a", method=METHOD, epochs=1, network_options={"width": 4}, seed=0
    )
    assert set(done.found) == {"spread", "effective_rank"}
    encoder = make_encoder(f"pretrained:{tmp_path / 'a'}")
    assert isinstance(encoder, StreamingEncoder)
    pool = images().pool
    whole = encoder.fit(pool, seed=0).encode(pool)
    assert whole.shape == (48, *encoder.item_shape()) == (48, 32)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    out = np.empty((48, 32), np.float32)
    assert encoder.encode(pool, out=out) is out
    np.testing.assert_array_equal(out, whole)
    assert not np.allclose(
        np.linalg.norm(
            make_encoder(f"pretrained:{tmp_path / 'a'}", normalize=False)
            .fit(pool, seed=0)
            .encode(pool),
            axis=1,
        ),
        1,
    )
    # the weights are in the signature, and the folder is not
    pretrain(
        images(), tmp_path / "b", method=METHOD, epochs=1, network_options={"width": 4}, seed=1
    )
    other = make_encoder(f"pretrained:{tmp_path / 'b'}")
    assert other.signature() != encoder.signature()
    (tmp_path / "a").rename(tmp_path / "moved")
    assert make_encoder(f"pretrained:{tmp_path / 'moved'}").signature() == encoder.signature()
    with pytest.raises(InputError, match="was pretrained on items of kind image"):
        other.fit(blobs().pool, seed=0)


METHODS = {
    "simclr": "simclr:hidden=16:width=8",
    "moco": "moco:hidden=16:width=8:queue=64",
    "simsiam": "simsiam:hidden=16:width=8",
    "byol": "byol:hidden=16:width=8",
    "barlow_twins": "barlow_twins:hidden=16:width=8",
    "vicreg": "vicreg:hidden=16:width=8",
    "dino": "dino:hidden=16",
    "rotation": "rotation",
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_to_the_same_weights(method, tmp_path):
    options = {"method": METHODS[method], "epochs": 3, "network_options": {"width": 2}, "every": 1}
    options |= {"unlabeled_minibatch": 16}

    def listener(seen):
        if seen.passed.epoch == 2:
            raise Stopped

    pretrain(images(32), tmp_path / "whole", **options)
    with pytest.raises(Stopped):
        pretrain(images(32), tmp_path / "broken", listener=listener, **options)
    pretrain(images(32), tmp_path / "broken", **options)
    assert tensors(tmp_path / "broken") == tensors(tmp_path / "whole")


def test_a_folder_without_a_pretraining_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no pretraining"):
        make_encoder(f"pretrained:{tmp_path}")


@pytest.mark.parametrize("apart", [False, True])
def test_neighbors_vote_as_defined(apart):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 5, generator=generator)
    labels = torch.randint(4, (60,), generator=generator)
    queries = torch.randn(30, 5, generator=generator) if apart else None
    asked = torch.randint(4, (30,), generator=generator) if apart else labels
    unit = F.normalize(rows.double(), dim=1)
    right = 0
    for number, query in enumerate(rows if queries is None else queries):
        near = unit @ F.normalize(query.double(), dim=0)
        if queries is None:
            near[number] = -torch.inf
        votes = torch.zeros(4, dtype=torch.float64)
        for row in near.argsort(descending=True)[:9]:
            votes[labels[row]] += (near[row] / 0.1).exp()
        right += int(votes.argmax() == asked[number])
    given = {"queries": queries, "query_labels": asked} if apart else {}
    found = knn_accuracy(rows, labels, k=9, **given)
    assert found == pytest.approx(right / len(asked))
    assert 0.1 < found < 0.5
    # by default half of a class: 60 rows of 4 classes are asked for 7
    assert knn_accuracy(rows, labels) == knn_accuracy(rows, labels, k=7)


def test_collapse_is_seen():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 8, generator=generator)
    assert spread(rows) == pytest.approx(1, abs=0.02)
    assert effective_rank(rows) == pytest.approx(8, abs=0.05)
    flat = rows[:, :2] @ torch.randn(2, 8, generator=generator)
    assert effective_rank(flat) <= 2
    # Fewer rows than dimensions: each row three times is the same cloud, and more rows than them.
    wide = rows[:20] @ torch.randn(8, 50, generator=generator)
    assert effective_rank(wide) == pytest.approx(effective_rank(wide.repeat(3, 1)), rel=1e-5)
    point = torch.ones(10, 8) * torch.arange(1, 11)[:, None]
    assert spread(point) < 1e-6
    assert effective_rank(point) == 0


def test_lars_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 2).double()
    weight, bias = (each.detach().clone() for each in (layer.weight, layer.bias))
    recipe = Recipe(optimizer="lars", learning_rate=0.5, weight_decay=0.01)
    optimizer = make_optimizer(recipe, list(layer.parameters()))
    kept = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for scale in (1.0, 1e-6, 5.0):
        gradients = [scale * torch.randn(each.shape, generator=generator).double() for each in kept]
        layer.weight.grad, layer.bias.grad = (each.clone() for each in gradients)
        optimizer.step()
        norm, size = gradients[0].norm(), weight.norm()
        ratio = min(1.0, float(0.02 * size / (norm + 0.01 * size) / 0.5))
        kept[0] = 0.9 * kept[0] + ratio * (gradients[0] + 0.01 * weight)
        kept[1] = 0.9 * kept[1] + gradients[1]
        weight, bias = weight - 0.5 * kept[0], bias - 0.5 * kept[1]
        torch.testing.assert_close(layer.weight, weight, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(layer.bias, bias, rtol=1e-6, atol=1e-9)


def test_an_encoder_whose_folder_was_pretrained_anew_is_refused(tmp_path):
    folder = tmp_path / "out"
    pretrain(blobs(), folder, method=METHOD, epochs=1, **OPTIONS)
    encoder = make_encoder(f"pretrained:{folder}")
    known = encoder.signature()
    shutil.rmtree(folder)
    pretrain(blobs(), folder, method=METHOD, epochs=1, seed=1, **OPTIONS)
    with pytest.raises(DataError, match="was pretrained anew since this encoder was made"):
        encode_data(blobs(), encoder, seed=0, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    anew = make_encoder(f"pretrained:{folder}")
    assert anew.signature() != known
    encode_data(blobs(), anew, seed=0, cache=tmp_path / "cache")


def test_a_network_of_the_users_is_an_encoder_too(tmp_path):
    def factory(shape, classes):
        return nn.Sequential(nn.Linear(shape[0], 9), nn.ReLU(), nn.Linear(9, classes))

    jitter = Looks(distorted=lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g))
    learner = Network(factory, name="mine", looks=jitter, unlabeled_minibatch=32, min_steps=0)
    pretrain(blobs(), tmp_path, method=METHOD, network=learner, epochs=1)
    with pytest.raises(InputError, match=r"give load_model\(\.\.\., learner=\.\.\.\)"):
        encode_data(blobs(), make_encoder(f"pretrained:{tmp_path}"), seed=0)
    encoder = Pretrained(str(tmp_path), learner=learner)
    assert encode_data(blobs(), encoder, seed=0).pool.shape == (150, 9)
