"""Who gives which evidence, in words: for those who choose a learner for a strategy."""

from __future__ import annotations

from collections.abc import Iterable

from labelwise.learners.objectives import list_objectives, objective_class

_ANY = "any learner"
_HEAD = "a learner with a linear head: logistic, ridge, auto, or a network"
_NETWORK = "a network, such as mlp or resnet18"
_LAYERS = "a network of ReLU layers, such as mlp"
_FOREIGN = "the loop, of the classes named as out of distribution (--ood)"


LOOP = "the loop"
"""Who gives what follows from the labels so far."""

_OF_IMAGES = frozenset({"rotation"})
"""Objectives that make no sense of rows that are no images."""

_GIVEN_BY = {
    "probs": _ANY,
    "embeddings": _ANY,
    "logits": "any learner but some of scikit-learn",
    "previous_probs": "any learner: of the round before, at first as it is before its fit",
    "head_weight": _HEAD,
    "head_bias": _HEAD,
    "draws": "a learner with a posterior: mlp with dropout=0.2, ensemble:<learner>, or "
    "laplace:<learner>",
    "inputs": _NETWORK,
    "model": _NETWORK,
    "activations": _LAYERS,
    "hidden_weights": _LAYERS,
    "distinctiveness": "finetune:<network> with source_centers and source_layers",
    "pretext_loss": "labelwise pretrain --method rotation, as --evidence pretext_loss=FOLDER",
    "costs": "a file, as --evidence costs=FILE",
    "labeled": LOOP,
    "labels": LOOP,
    "round": LOOP,
    "rounds": LOOP,
    "state": LOOP,
    "private_probs": _FOREIGN,
    "private_embeddings": _FOREIGN,
    "private_labels": _FOREIGN,
}


def given_by(name: str) -> str:
    """Who gives evidence of one name, in words.

    >>> print(given_by("critic"))
    a network with the objective waal, as by
    --learner mlp --learner-option objectives=cross_entropy+waal
    """
    ways = [
        f"a network with the objective {each}, as by --learner "
        f"{'resnet18' if each in _OF_IMAGES else 'mlp'} "
        f"--learner-option objectives=cross_entropy+{each}"
        for each in list_objectives()
        if name in objective_class(each).gives
    ]
    if name in _GIVEN_BY:
        ways.append(_GIVEN_BY[name])
    return ", or ".join(ways) or "whoever calls the strategy; no learner has it"


def who_gives(names: Iterable[str]) -> str:
    """The same of several pieces of evidence, for a message.

    >>> who_gives(["probs"])
    'probs is given by any learner'
    """
    return "; ".join(f"{name} is given by {given_by(name)}" for name in names)


def needs_no_model(name: str) -> bool:
    """Whether evidence may be there before anything is learned, in a file.

    >>> needs_no_model("pretext_loss"), needs_no_model("probs")
    (True, False)
    """
    return "--evidence" in _GIVEN_BY.get(name, "")
