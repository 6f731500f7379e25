"""Networks of transformers itself, small and with random weights: encoded by, and tuned."""

import shutil
import sys

import numpy as np
import pytest
import torch
from tests.learners import hub_networks as hub

from labelwise.errors import DataError, InputError, MissingDependencyError
from labelwise.kernels import Rows
from labelwise.learners import encode_data, load_model, make_encoder, make_learner, save_model
from labelwise.learners.adapted import shortened
from labelwise.pools import ArrayPool, Data, ImagePool, PixelImages, TextPool

TEXTS = ["good word1", "bad word2 word3 word4 word5", "word6", "unheard of"]
QUICK = {"epochs": 2, "min_steps": 100, "minibatch": 16, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    return str(folder), hub.save_bert(folder)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    return str(folder), hub.save_vit(folder)


def alone(network, ids):
    """The mean over its tokens of one text, by the network itself."""
    with torch.no_grad():
        return network(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)


def numbers(text, special=True):
    ids = [hub.WORDS.index(word) if word in hub.WORDS else 1 for word in text.split()]
    return [2, *ids, 3] if special else ids


def reviews(count=160):
    """The class is whether a text says good or bad, among other words; of several lengths."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    texts = []
    for label in labels:
        words = [f"word{i}" for i in rng.integers(0, 24, rng.integers(1, 9))]
        words.insert(int(rng.integers(0, len(words) + 1)), ["bad", "good"][label])
        texts.append(" ".join(words))
    return TextPool(texts), torch.from_numpy(labels)


def tokens_of(folder, pool, **options):
    return Rows(make_encoder(f"tokens:{folder}", **options).fit(pool, seed=0).encode(pool))


def fit(folder, inputs, labels, rows=80, **options):
    learner = make_learner(f"finetune:transformers:{folder}", **QUICK | options)
    rows = torch.arange(rows)
    return learner.fit(inputs, rows, labels[rows], classes=2, seed=0)


def moved(model, network):
    """Which tensors of a network the fit has changed, and which names it has not got."""
    now = {
        name.replace("parametrizations.", "").removesuffix(".original"): value
        for name, value in model.network.backbone.network.state_dict().items()
    }
    before = network.state_dict()
    return {name for name in before.keys() & now.keys() if not torch.equal(before[name], now[name])}


# --- texts --------------------------------------------------------------------------------------


def test_texts_are_the_mean_over_their_own_tokens(bert):
    folder, network = bert
    pool = TextPool(TEXTS)
    encoder = make_encoder(f"transformers:{folder}", minibatch=3).fit(pool, seed=0)
    found = encoder.encode(pool)
    assert found.shape == (4, *encoder.item_shape()) == (4, 16)
    expected = torch.stack([alone(network, numbers(text)) for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tokens_are_the_tokenizers_with_nothing_behind(bert, tmp_path):
    folder, _ = bert
    pool = TextPool([*TEXTS, "", "word1 " * 50])
    encoder = make_encoder(f"tokens:{folder}").fit(pool, seed=0)
    found = encoder.encode(pool)
    assert found.dtype == encoder.dtype() == np.int32
    assert found.shape == (6, *encoder.item_shape()) == (6, 24)  # what the tokenizer says at most
    for row, text in zip(found, [*TEXTS, "", "word1 " * 22]):
        ids = numbers(text)
        assert row.tolist() == ids + [-1] * (24 - len(ids))
    short = make_encoder(f"tokens:{folder}", length=4).fit(pool, seed=0).encode(pool)
    assert short[1].tolist() == [2, hub.WORDS.index("bad"), hub.WORDS.index("word2"), 3]
    data = Data(pool, np.zeros(6, np.int64), None, None, ["a", "b"], "texts")
    kept = encode_data(data, make_encoder(f"tokens:{folder}"), seed=0, cache=tmp_path)
    np.testing.assert_array_equal(kept.pool.tensor().numpy(), found)


@pytest.mark.parametrize("tune", ["full", "lora", "head"])
def test_text_networks_are_tuned(bert, tune):
    folder, network = bert
    pool, labels = reviews()
    model = fit(folder, tokens_of(folder, pool), labels, tune=tune)
    names = {n for n in network.state_dict() if not n.startswith("pooler.")}
    unseen = {"embeddings.word_embeddings.weight"}  # rows of words that no labeled text has
    if tune == "full":
        assert names - moved(model, network) <= unseen
        assert not any("pooler" in name for name in model.network.state_dict())
    else:
        assert moved(model, network) == set()
    if tune == "lora":
        changed = [n for n, _ in model.network.named_modules() if n.endswith("parametrizations")]
        assert len(changed) == 12  # six linear layers in each of two
    out = model.predict(tokens_of(folder, pool))
    assert out.embeddings.shape == (160, 16)
    if tune != "head":
        assert (out.probs.argmax(1) == labels)[80:].float().mean() > 0.9


def test_the_first_prediction_is_the_pretrained_networks_whatever_the_width(bert):
    folder, network = bert
    pool = TextPool(TEXTS)
    narrow = tokens_of(folder, pool, length=8)
    learner = make_learner(f"finetune:transformers:{folder}", **QUICK)
    models = [
        learner.untrained(rows, classes=2, seed=0) for rows in (narrow, tokens_of(folder, pool))
    ]
    found = [m.predict(r).embeddings for m, r in zip(models, (narrow, tokens_of(folder, pool)))]
    expected = torch.stack([alone(network, numbers(text)) for text in TEXTS])
    for each in found:
        torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-5)
    assert models[1].network.backbone.training is False


def test_minibatches_are_as_long_as_their_longest_text(bert, monkeypatch):
    folder, _ = bert
    pool, labels = reviews(16)
    seen = []
    from labelwise.learners.hub_transformers import TextNetwork

    whole = TextNetwork.forward
    monkeypatch.setattr(
        TextNetwork, "forward", lambda self, t: (seen.append(t.shape[1]), whole(self, t))[1]
    )
    inputs = tokens_of(folder, pool)
    model = fit(folder, inputs, labels, rows=16, min_steps=2)
    model.predict(inputs)
    longest = int((inputs.tensor() >= 0).sum(1).max())
    assert set(seen) <= {24, *range(longest + 1)}
    assert seen.count(24) == 1  # the look at the width when it is made
    seen.clear()
    model.draws(inputs, samples=1, seed=0)
    assert set(seen) == {24}  # masks are of whole rows
    assert shortened(torch.full((2, 3), -1)).shape == (2, 1)


def test_a_fit_is_of_its_seed_saved_and_loaded(bert, tmp_path):
    folder, _ = bert
    pool, labels = reviews()
    inputs = tokens_of(folder, pool)
    state = torch.get_rng_state()
    for tune in ("full", "lora"):
        model, again = (fit(folder, inputs, labels, tune=tune, min_steps=4) for _ in range(2))
        assert torch.equal(model.predict(inputs).logits, again.predict(inputs).logits)
        save_model(model, tmp_path / tune)
        learner = make_learner(
            f"finetune:transformers:{folder}", tune=tune, **QUICK | {"min_steps": 4}
        )
        loaded = load_model(tmp_path / tune, learner=learner)
        assert torch.equal(loaded.predict(inputs).logits, model.predict(inputs).logits)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_one_function_for_texts_of_all_lengths(bert):
    folder, _ = bert
    pool, labels = reviews()
    inputs = tokens_of(folder, pool)
    model = fit(folder, inputs, labels, min_steps=4)
    whole = model.draws(inputs, samples=3, seed=1)
    model.network.rows_at_once = 7
    torch.testing.assert_close(model.draws(inputs, samples=3, seed=1), whole)
    assert whole.std(0).max() > 1e-3


def test_a_network_that_writes_texts_and_pads_none(tmp_path):
    """GPT-2: no token to pad with, no special tokens, and layers with turned weights."""
    network = hub.save_gpt2(tmp_path)
    pool, labels = reviews()
    encoder = make_encoder(f"transformers:{tmp_path}").fit(pool, seed=0)
    texts = pool.texts()[:5]
    found = encoder.encode(TextPool([*texts, ""]))
    expected = torch.stack([alone(network, numbers(text, special=False)) for text in texts])
    np.testing.assert_allclose(found[:5], expected, atol=1e-5)
    assert np.isfinite(found).all()
    inputs = tokens_of(tmp_path, pool)
    model = fit(tmp_path, inputs, labels, tune="lora", rank=2)
    assert moved(model, network) == set()
    change = model.network.backbone.network.h[0].attn.c_attn.parametrizations.weight[0]
    assert (change.a.shape, change.b.shape) == ((2, 16), (48, 2))
    assert change.b.abs().max() > 0.001
    assert (model.predict(inputs).probs.argmax(1) == labels)[80:].float().mean() > 0.7


def test_validation_and_joint_entropy_work_on_tokens(bert):
    folder, _ = bert
    pool, labels = reviews()
    options = {"validation": 0.2, "objectives": "cross_entropy+joint_entropy"}
    model = fit(folder, tokens_of(folder, pool), labels, tune="lora", min_steps=4, **options)
    assert len(model.history.validation) == 2
    assert len(model.history.validation_rows) == 16


# --- images -------------------------------------------------------------------------------------


def pixels(count=24, side=16):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 120, (count, side, side, 3), generator=generator)
    labels = torch.arange(count) % 2
    return (levels + 100 * labels[:, None, None, None]).to(torch.uint8), labels


def standardized(images, scale=1.0):
    mean = torch.tensor(hub.MEAN).reshape(3, 1, 1)
    spread = torch.tensor(hub.SPREAD).reshape(3, 1, 1)
    return (scale * images.permute(0, 3, 1, 2).float() / 255 - mean) / spread


def encoded(folder, images):
    pool = ImagePool(PixelImages(images.numpy()))
    encoder = make_encoder(f"transformers:{folder}", minibatch=5).fit(pool, seed=0)
    found = encoder.encode(pool)
    assert found.shape == (len(images), *encoder.item_shape())
    return found


def test_images_are_a_vits_class_token(vit):
    folder, network = vit
    images, _ = pixels()
    with torch.no_grad():
        expected = network(pixel_values=standardized(images)).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoded(folder, images), expected, atol=1e-5)


def test_images_are_what_a_convolutional_network_pools(tmp_path):
    network = hub.save_resnet(tmp_path)
    images, labels = pixels(side=20)
    with torch.no_grad():
        expected = network(pixel_values=standardized(images)).last_hidden_state.mean((2, 3))
    np.testing.assert_allclose(encoded(tmp_path, images), expected, atol=1e-5)
    model = fit(tmp_path, Rows(images), labels, rows=16, min_steps=4)
    assert moved(model, network)


def test_images_of_a_network_for_both_are_where_its_texts_are(tmp_path):
    network = hub.save_clip(tmp_path)
    images, labels = pixels()
    with torch.no_grad():
        made = network.get_image_features(pixel_values=standardized(images, scale=0.5))
    expected = getattr(made, "pooler_output", made)
    found = encoded(tmp_path, images)
    assert found.shape == (24, 12)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    model = fit(tmp_path, Rows(images), labels, rows=16, tune="lora", min_steps=4)
    assert not any("text_model" in name for name, _ in model.network.named_parameters())
    with pytest.raises(InputError, match=r"\(clip\) is no network of texts"):
        make_encoder(f"transformers:{tmp_path}").fit(TextPool(TEXTS), seed=0)


@pytest.mark.parametrize("tune", ["full", "lora", "head"])
def test_image_networks_are_tuned(vit, tune):
    folder, network = vit
    images, labels = pixels(side=20)
    model = fit(folder, Rows(images), labels, rows=16, tune=tune)
    names = {n for n in network.state_dict() if not n.startswith("pooler.")}
    assert moved(model, network) == (names if tune == "full" else set())
    assert (model.predict(Rows(images)).probs.argmax(1) == labels)[16:].float().mean() > 0.9


# --- what cannot be -----------------------------------------------------------------------------


def one_line(caught, *parts):
    said = str(caught.value)
    assert "\n" not in said
    assert all(part in said for part in parts), said


def test_a_name_that_is_not_here_is_one_line(monkeypatch, tmp_path):
    hub.library("transformers", "text")
    hub.go_offline(monkeypatch, tmp_path)
    pool = TextPool(TEXTS)
    for name in ("transformers:some/network", "tokens:some/network"):
        with pytest.raises(
            DataError, match=r"the path of a folder with its config\.json"
        ) as caught:
            make_encoder(name).fit(pool, seed=0)
        one_line(caught, "some/network", "was not fetched before")
        with pytest.raises(DataError, match=r"there is no folder './nowhere'"):
            make_encoder(name.replace("some/network", "./nowhere")).fit(pool, seed=0)
    inputs = Rows(torch.zeros(8, 4, dtype=torch.int32))
    with pytest.raises(DataError, match="the path of a folder") as caught:
        fit("some/network", inputs, torch.arange(8) % 2, rows=4)
    one_line(caught, "some/network")


def test_weights_of_another_network_are_one_line(bert, vit, tmp_path):
    images = ImagePool(PixelImages(pixels()[0].numpy()))
    folder = tmp_path / "mixed"
    shutil.copytree(vit[0], folder)
    shutil.copy(f"{bert[0]}/model.safetensors", folder)
    with pytest.raises(DataError, match="weights are of another network") as caught:
        make_encoder(f"transformers:{folder}").fit(images, seed=0)
    one_line(caught, "(vit)", "tensors are missing")
    hub.save_bert(tmp_path / "wide", hidden_size=32)
    shutil.copy(tmp_path / "wide" / "model.safetensors", tmp_path / "wide" / "kept")
    shutil.copy(f"{bert[0]}/model.safetensors", tmp_path / "wide")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        make_encoder(f"transformers:{tmp_path / 'wide'}").fit(TextPool(TEXTS), seed=0)
    one_line(caught, "wide")


def test_folders_that_lack_something_are_one_line(bert, vit, tmp_path):
    images = ImagePool(PixelImages(pixels()[0].numpy()))
    for place, missing in enumerate(("config.json", "model.safetensors", "preprocessor_config")):
        folder = tmp_path / str(place)
        shutil.copytree(vit[0], folder)
        next(folder.glob(f"{missing}*")).unlink()
        with pytest.raises(DataError, match="without a network give") as caught:
            make_encoder(f"transformers:{folder}").fit(images, seed=0)
        one_line(caught, missing.partition(".")[0] if place == 2 else missing)
    shutil.copytree(bert[0], tmp_path / "texts")
    for path in (tmp_path / "texts").glob("token*"):
        path.unlink()
    with pytest.raises(DataError, match="its tokenizer in it") as caught:
        make_encoder(f"tokens:{tmp_path / 'texts'}").fit(TextPool(TEXTS), seed=0)
    one_line(caught)


def test_what_does_not_fit_the_network_is_refused(bert, vit, tmp_path):
    texts, images = bert[0], vit[0]
    labels = torch.arange(8) % 2

    def run(folder, data, **options):
        fit(folder, Rows(data), labels, rows=4, **options)

    with pytest.raises(InputError, match=r"\(vit\) is no network of texts"):
        run(images, torch.zeros(8, 4, dtype=torch.int32))
    with pytest.raises(InputError, match=r"\(bert\) is no network of images"):
        run(texts, torch.zeros(8, 16, 16, 3, dtype=torch.uint8))
    hub.save_video_network(tmp_path)
    with pytest.raises(InputError, match=r"\(videomae\) makes no features of images alone: "):
        run(tmp_path, torch.zeros(8, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"no texts of 99 tokens \(its config says 40\)"):
        run(texts, torch.zeros(8, 99, dtype=torch.int32))
    with pytest.raises(InputError, match=r"token 30, and transformers:.* knows those below 30"):
        run(texts, torch.full((8, 4), 30, dtype=torch.int32))
    with pytest.raises(InputError, match=r"or tokens as the 'tokens:.*got rows of 4 fractions"):
        run(texts, torch.zeros(8, 4))
    with pytest.raises(InputError, match="size is not for networks of texts"):
        run(texts, torch.zeros(8, 4, dtype=torch.int32), size=16)
    with pytest.raises(InputError, match=r"weights of transformers:.* are in a folder"):
        run(images, torch.zeros(8, 16, 16, 3, dtype=torch.uint8), weights="x.safetensors")
    pool = Rows(torch.zeros(8, 16, 16, 3, dtype=torch.uint8))
    learner = make_learner(
        f"finetune:transformers:{images}", source_centers=pool, source_layers=("a", "b")
    )
    with pytest.raises(InputError, match="opened without its classifier"):
        learner.distinctiveness(pool)
    inputs = torch.zeros(8, 4, dtype=torch.int32)
    learner = make_learner(f"finetune:transformers:{texts}", **QUICK)
    model = learner.untrained(Rows(inputs), classes=2, seed=0)
    with pytest.raises(InputError, match="a text network takes tokens, whole numbers"):
        model.logits(inputs.float())


def test_encoders_refuse_other_kinds(bert):
    folder, _ = bert
    table = ArrayPool(np.zeros((2, 2)))
    with pytest.raises(InputError, match="pools of kind image or text, and this one is array"):
        make_encoder(f"transformers:{folder}").fit(table, seed=0)
    with pytest.raises(InputError, match="reads texts, and this is a pool of kind array"):
        make_encoder(f"tokens:{folder}").fit(table, seed=0)
    for name, option in (("tokens", "length"), ("transformers", "tokens")):
        with pytest.raises(InputError, match=f"{option} must be at least 1, got 0"):
            make_encoder(f"{name}:{folder}", **{option: 0})
    with pytest.raises(InputError, match="is not fitted"):
        make_encoder(f"tokens:{folder}").encode(TextPool(TEXTS))


def test_signatures_know_the_content_of_a_folder(bert, tmp_path):
    shutil.copytree(bert[0], tmp_path / "copy")
    for make, name in (
        (make_encoder, "transformers:"),
        (make_encoder, "tokens:"),
        (make_learner, "finetune:transformers:"),
    ):
        before = make(f"{name}{tmp_path / 'copy'}").signature()
        assert before == make(f"{name}{tmp_path / 'copy'}").signature()
        card = tmp_path / "copy" / "tokenizer_config.json"
        card.write_text(card.read_text() + " ")
        assert make(f"{name}{tmp_path / 'copy'}").signature() != before


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("transformers:tiny", "tokens:tiny"):
        with pytest.raises(MissingDependencyError, match=r"pip install 'labelwise\[text\]'"):
            make_encoder(name).fit(TextPool(TEXTS), seed=0)
    with pytest.raises(MissingDependencyError, match=r"pip install 'labelwise\[text\]'"):
        fit("tiny", Rows(torch.zeros(8, 4, dtype=torch.int32)), torch.arange(8) % 2, rows=4)
