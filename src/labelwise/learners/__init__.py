"""Floor 4: encoders, heads, the one training loop, and the evidence that needs a model."""

from labelwise.learners.base import (
    Encoder,
    Learner,
    Model,
    Outputs,
    PosteriorModel,
    Progress,
    StreamingEncoder,
    check_fit,
)
from labelwise.learners.registry import (
    default_encoder,
    default_learner,
    list_encoders,
    list_learners,
    make_encoder,
    make_learner,
)

__all__ = [
    "Encoder",
    "Learner",
    "Model",
    "Outputs",
    "PosteriorModel",
    "Progress",
    "StreamingEncoder",
    "check_fit",
    "default_encoder",
    "default_learner",
    "list_encoders",
    "list_learners",
    "make_encoder",
    "make_learner",
]
