"""Learners and encoders by name: what a plan file, the command line or a user writes.

Classes are named by their dotted path and imported when they are asked for, so that listing
names costs nothing and a missing optional library concerns only those who ask for it.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any, NamedTuple

from labelwise.errors import InputError, nearest
from labelwise.learners.base import Encoder, Learner


class _Entry(NamedTuple):
    """Where a class lives, its preset options, and one line on what it is."""

    path: str
    presets: dict[str, Any]
    line: str


_HERE = "labelwise.learners"

_LEARNERS = {
    "logistic": _Entry(f"{_HERE}.logistic:Logistic", {}, "exact multinomial logistic regression"),
    "ridge": _Entry(f"{_HERE}.ridge:Ridge", {}, "ridge regression on one-hot labels"),
    "auto": _Entry(f"{_HERE}.auto:Auto", {}, "the better of ridge and logistic by validation"),
    "mlp": _Entry(f"{_HERE}.mlp:MLP", {}, "a multi-layer perceptron"),
    "resnet18": _Entry(f"{_HERE}.resnet:ResNet18", {}, "ResNet-18 for small images"),
}
_LEARNER_FAMILIES = {
    "sklearn": _Entry(f"{_HERE}.scikit:Scikit", {}, "any scikit-learn classifier, by class path"),
    "ensemble": _Entry(f"{_HERE}.ensemble:Ensemble", {}, "several fits of a learner: draws"),
    "fused": _Entry(f"{_HERE}.fused:Fused", {}, "a branch for each modality, by their widths"),
    "finetune": _Entry(f"{_HERE}.finetune:Finetune", {}, "a pretrained network, tuned"),
    "laplace": _Entry(f"{_HERE}.laplace:Laplace", {}, "a learner with a posterior of its head"),
}
_ENCODERS = {
    "patches": _Entry(f"{_HERE}.patches:PatchEncoder", {}, "k-means patch features (Coates 2011)"),
    "patches-fast": _Entry(f"{_HERE}.patches:PatchEncoder", {"stride": 2}, "patches at stride 2"),
    "pixels": _Entry(f"{_HERE}.pixels:Pixels", {}, "uint8 images, for networks"),
    "table": _Entry(f"{_HERE}.table:Table", {}, "standardized numbers and one-hot categories"),
    "tfidf": _Entry(f"{_HERE}.text:TFIDF", {}, "TF-IDF of words and word pairs, then SVD"),
    "identity": _Entry(f"{_HERE}.identity:Identity", {}, "the array as it is"),
}
_ENCODER_FAMILIES = {
    "pretrained": _Entry(
        f"{_HERE}.pretrained:Pretrained", {}, "a network of labelwise pretrain, by its folder"
    ),
    "timm": _Entry(f"{_HERE}.hub:Timm", {}, "a pretrained image network of timm"),
    "concat": _Entry(f"{_HERE}.concat:Concat", {}, "several encoders side by side, joined by +"),
    "open_clip": _Entry(f"{_HERE}.hub:OpenCLIP", {}, "the image tower of open_clip"),
    "transformers": _Entry(f"{_HERE}.hub:Transformers", {}, "a pretrained text or image network"),
    "tokens": _Entry(f"{_HERE}.tokens:Tokens", {}, "texts as tokens, for networks of transformers"),
}
_DEFAULTS = {
    "image": ("patches", "auto"),
    "table": ("table", "mlp"),
    "text": ("tfidf", "logistic"),
    "array": ("identity", "logistic"),
}


def make_learner(name: str | Learner, **options: Any) -> Learner:
    """A learner by name.

    Args:
        name: one of `list_learners`, ``"sklearn:<class path>"`` such as
            ``"sklearn:sklearn.ensemble.RandomForestClassifier"``, ``"finetune:timm:<name>"``,
            ``"ensemble:<learner>"`` or ``"laplace:<learner>"``, or a learner, which is returned
            as it is.
        options: the keyword arguments of the learner's class.

    Raises:
        InputError: an unknown name or option, with the nearest ones.
        MissingDependencyError: the learner needs a library that is not installed.
    """
    learner: Learner = _make("learner", name, _LEARNERS, _LEARNER_FAMILIES, options)
    return learner


def make_encoder(name: str | Encoder, **options: Any) -> Encoder:
    """An encoder by name.

    Args:
        name: one of `list_encoders`, ``"timm:<name>"``, ``"open_clip:<name>"``,
            ``"transformers:<name>"``, or an encoder, which is returned as it is.
        options: the keyword arguments of the encoder's class.

    Raises:
        InputError: an unknown name or option, with the nearest ones.
        MissingDependencyError: the encoder needs a library that is not installed.
    """
    encoder: Encoder = _make("encoder", name, _ENCODERS, _ENCODER_FAMILIES, options)
    return encoder


def default_encoder(kind: str) -> str:
    """The name of the encoder for a pool of this kind.

    >>> default_encoder("text")
    'tfidf'
    """
    return _default(kind)[0]


def own_encoder(learner: Learner, kind: str) -> str | None:
    """The encoder that a learner asks for instead of the default one; None where it has no wish.

    Args:
        learner: its attribute ``reads``, where it has one, names an encoder by kind of pool.
        kind: of the pool.

    >>> own_encoder(make_learner("resnet18"), "image"), own_encoder(make_learner("mlp"), "image")
    ('pixels', None)
    """
    while hasattr(learner, "learner"):  # of an ensemble, or a posterior
        learner = learner.learner
    wish: str | None = getattr(learner, "reads", {}).get(kind)
    return wish


def default_learner(kind: str) -> str:
    """The name of the learner for a pool of this kind.

    >>> default_learner("text")
    'logistic'
    """
    return _default(kind)[1]


def list_learners() -> dict[str, str]:
    """Every learner's name and one line on it; ``sklearn:<...>`` stands for a family."""
    return _lines(_LEARNERS, _LEARNER_FAMILIES)


def list_encoders() -> dict[str, str]:
    """Every encoder's name and one line on it; ``timm:<...>`` stands for a family."""
    return _lines(_ENCODERS, _ENCODER_FAMILIES)


def _default(kind: str) -> tuple[str, str]:
    if kind not in _DEFAULTS:
        raise InputError(f"kind {kind!r} is no kind of pool; {nearest(kind, _DEFAULTS)}")
    return _DEFAULTS[kind]


def _lines(entries: dict[str, _Entry], families: dict[str, _Entry]) -> dict[str, str]:
    named = {name: entry.line for name, entry in entries.items()}
    return named | {f"{name}:<...>": entry.line for name, entry in families.items()}


def _make(
    role: str,
    name: Any,
    entries: dict[str, _Entry],
    families: dict[str, _Entry],
    options: dict[str, Any],
) -> Any:
    if not isinstance(name, str):
        if options:
            raise InputError(f"options of a {role} that is already made: {', '.join(options)}")
        if not isinstance(name, Learner if role == "learner" else Encoder):
            raise InputError(
                f"{role} must be a name or have the methods of one, got {type(name).__name__}"
            )
        return name
    family, _, member = name.partition(":")
    positional: tuple[str, ...] = ()
    if name in entries:
        entry = entries[name]
    elif family in families and member:
        entry, positional = families[family], (member,)
    elif family in families:
        raise InputError(f"{role} {name!r} must name one, as in '{family}:<...>'")
    else:
        known = [*entries, *(f"{prefix}:<...>" for prefix in families)]
        raise InputError(f"no {role} is called {name!r}; {nearest(name, known)}")
    return _build(role, name, entry, positional, options)


def _build(
    role: str, name: str, entry: _Entry, positional: tuple[str, ...], options: dict[str, Any]
) -> Any:
    module, _, attribute = entry.path.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(factory).parameters
    named = list(parameters)[len(positional) :]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in named:
                raise InputError(
                    f"{role} {name!r} has no option {option!r}; {nearest(option, named)}"
                )
    try:
        return factory(*positional, **{**entry.presets, **options})
    except TypeError as error:  # a text where a number belongs
        raise InputError(f"{role} {name!r} cannot be made of {options}: {error}") from error
