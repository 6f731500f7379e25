"""``labelwise pretrain``, and what it makes in ``labelwise simulate``."""

import json

import numpy as np


def test_pretrain_then_simulate_with_the_encoder(run, tmp_path):
    generator = np.random.default_rng(0)
    classes = np.arange(150) % 3
    rows = generator.normal(size=(150, 12)) + 2 * np.repeat(np.eye(3), 4, 1)[classes]
    path, folder, cache = tmp_path / "blobs.npz", tmp_path / "ssl", tmp_path / "cache"
    np.savez(path, x=rows.astype(np.float32), y=classes)
    command = ["pretrain", path, "--out", folder, "--method", "simclr:hidden=16:width=8"]
    command += ["--epochs", 3, "--option", "unlabeled_minibatch=40", "--cache", cache]
    command += ["--network-option", "hidden=10", "--every", 2, "--threads", 1]
    code, out, err = run(*command)
    assert code == 0, err
    assert out.startswith("3 epochs in ")
    assert "kNN on test " in out
    assert out.rstrip().endswith(f"encoder: pretrained:{folder}")
    assert "[3/3] loss " in err
    assert "[1/3] loss " in err
    code, out, err = run(*command, "--json")
    assert code == 0, err
    assert json.loads(out)["epochs"] == 3
    code, _, err = run(*command, "--seed", 1)
    assert code == 4
    assert err.splitlines()[-1].startswith("error: ")
    assert "another seed" in err.splitlines()[-1]
    code, _, err = run(
        *("simulate", path, "--out", tmp_path / "out", "--encoder", f"pretrained:{folder}"),
        *("--strategies", "random,k_center", "--initial", 6, "--batch", 4, "--rounds", 1),
        *("--seeds", 2, "--learner", "logistic", "--cache", cache, "--threads", 1, "--no-full"),
    )
    assert code == 0, err


def test_an_unknown_method_is_one_line(run, tmp_path):
    code, _, err = run("pretrain", "digits", "--out", tmp_path / "a", "--method", "simclear")
    assert code == 2
    assert err.splitlines()[-1] == "error: no objective is called 'simclear'; did you mean simclr?"
