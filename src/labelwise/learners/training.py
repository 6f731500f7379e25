"""The one training loop: plain torch over tensors, minibatches by indexing.

Whatever trains a network here runs in `train`. What differs between learners is the network, the
objectives and the `Recipe`. The loop itself is `labelwise.learners.fit`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive, torch_stream
from labelwise.learners.checkpoint import Checkpoint, Keeper, describe
from labelwise.learners.compiling import training_pass
from labelwise.learners.feeding import Labeled, Unlabeled, Validation
from labelwise.learners.fit import Fit, Term
from labelwise.learners.history import History, Listener, Passed
from labelwise.learners.networks import dropouts, find_head, isolated_random_state
from labelwise.learners.objectives import (
    Looks,
    Objective,
    Setting,
    Sight,
    Tapped,
    optional_inputs,
    wanted_inputs,
)
from labelwise.learners.parallel import Ranks, lent
from labelwise.learners.recipe import (
    Recipe,
    pick_device,
    validation_split,
)

__all__ = ["History", "Listener", "Passed", "Trained", "train"]


class Trained(NamedTuple):
    """What `train` leaves behind: the history, and the objectives with what they learned."""

    history: History
    objectives: tuple[Objective, ...]


def train(
    network: nn.Module,
    inputs: Rows,
    rows: Tensor,
    labels: Tensor,
    *,
    classes: int,
    seed: int,
    recipe: Recipe,
    objectives: Sequence[Objective],
    unlabeled: Tensor | None = None,
    looks: Looks | None = None,
    checkpoint: Checkpoint | None = None,
    listener: Listener | None = None,
) -> Trained:
    """Train a network in place, and leave it in evaluation mode.

    Where ``torch.distributed`` is initialized all ranks call this with the same arguments, share
    the work, and end with the same; see `labelwise.learners.parallel`.

    Args:
        network: moved to the recipe's device. Its last linear layer gives the logits.
        inputs: (N, ...) the pool.
        rows: (L,) int64 labeled rows. They are copied to the device once. With none of them an
            epoch is a pass over the unlabeled rows, for objectives that need no labels.
        labels: (L,) int64.
        classes: C.
        seed: order, augmentation, dropout and validation split are streams of it.
        recipe: how.
        objectives: what is minimized: the sum of them. Each is copied, so none is changed.
        unlabeled: (U,) int64 rows for objectives that name ``unlabeled``; None means every
            row of the pool that is not labeled.
        looks: how minibatches are changed at random; not at all by default.
        checkpoint: where the fit keeps what it takes to go on after a break, and goes on from
            where that is there already.
        listener: told after every epoch. It must not change the network, nor draw random numbers
            from a global generator.

    Raises:
        InputError: an objective that asks for something unknown, unlabeled rows wanted where
            there are none, or a loss that is not finite (with its step and learning rate); the
            last checkpoint before it stays.
        LabelwiseError: another rank has ended.
        DataError: a checkpoint that is damaged, or of another architecture, recipe, data, seed
            or version.
        ResourceError: out of memory with the smallest minibatch. Before that it is halved, which
            is warned of once. Several ranks do not halve it: they end. Or no compiler for a
            recipe that compiles.
    """
    device = pick_device(recipe.device)
    ranks = Ranks.here()
    # For modules that draw from torch's global generator all the same.
    with isolated_random_state(derive(seed, "dropout"), device), contextlib.ExitStack() as stack:
        for number, layer in enumerate(dropouts(network)):
            layer.generator = torch_stream(seed, "dropout", number, device=device)
        network.to(device)
        _check_alike(ranks, inputs, rows, labels, unlabeled, seed, recipe, objectives)
        ranks.follow(network)
        stack.enter_context(lent(ranks, [network]))
        kept, held = validation_split(labels, recipe.validation, seed)
        head = find_head(network, classes)
        wanted = [wanted_inputs(objective) for objective in objectives]
        others = None
        if any("unlabeled" in names for names in wanted):
            others = Unlabeled(inputs, rows, unlabeled, recipe, seed, device)
        setting = Setting(
            classes,
            labels[kept],
            head.in_features,
            device,
            torch_stream(seed, "objectives"),
            network,
            inputs.shape[1:],
            len(inputs),
            0 if others is None else len(others.rows),
            ranks,
        )
        terms = _prepare(objectives, wanted, setting)
        stack.enter_context(lent(ranks, [term for term, _ in terms]))
        for term, _ in terms:
            ranks.follow(term)
        given = Labeled(inputs, rows[kept], labels[kept], recipe, seed, device)
        validation = Validation(inputs, rows[held], labels[held], recipe, device, ranks)
        layers = [layer for term, _ in terms for layer in term.layers()]
        with Tapped(network, head, ranks, layers) as forward:
            sight = Sight(
                forward,
                looks or Looks(),
                torch_stream(seed, "augmentation"),
                classifying=len(rows) > 0 and any(o.learns_labels is not False for o in objectives),
            )
            fit = Fit(sight, terms, given, others, recipe)
            forward.run = stack.enter_context(
                training_pass(network, recipe, device, steps=fit.total, ranks=ranks.size)
            )
            keeper = None
            if checkpoint is not None:
                made_by = describe(network, inputs, rows, labels, unlabeled)
                made_by |= {"seed": seed, "recipe": recipe.signature(), "classes": classes}
                made_by["objectives"] = [term.signature() for term, _ in terms]
                keeper = Keeper(checkpoint, made_by, device, ranks)
            history = fit.run(validation, keeper, listener)
        for layer in dropouts(network):
            layer.generator = None
    history = history._replace(validation_rows=rows[held].tolist())
    return Trained(history, tuple(term.eval() for term, _ in terms))


def _check_alike(
    ranks: Ranks,
    inputs: Rows,
    rows: Tensor,
    labels: Tensor,
    unlabeled: Tensor | None,
    seed: int,
    recipe: Recipe,
    objectives: Sequence[Objective],
) -> None:
    """Refuse a fit whose ranks were given different things."""
    if ranks.size == 1:
        return
    ranks.agree(
        inputs=inputs.shape,
        rows=rows,
        labels=labels,
        unlabeled=unlabeled,
        seed=seed,
        recipe=recipe.signature(),
        objectives=[objective.signature() for objective in objectives],
    )


def _prepare(
    objectives: Sequence[Objective], wanted: Sequence[tuple[str, ...]], setting: Setting
) -> list[Term]:
    """Copies of the objectives, ready for one fit, each with the inputs it names."""
    if not objectives:
        raise InputError("objectives is empty: a fit needs at least one, such as CrossEntropy()")
    terms = []
    for objective, names in zip(objectives, wanted):
        if "labeled" in names and len(setting.labels) == 0:
            if "labeled" not in optional_inputs(objective):
                raise InputError(
                    f"objective {type(objective).__name__} learns from labels, and there are none"
                )
            names = tuple(name for name in names if name != "labeled")
        term = copy.deepcopy(objective)
        term.prepare(setting)
        terms.append((term.to(setting.device).train(), names))
    return terms
