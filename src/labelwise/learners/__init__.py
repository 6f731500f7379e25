"""Floor 4: encoders, heads, the one training loop, and the evidence that needs a model."""

from labelwise.learners.augment import Corrupt, CropFlip, Distort, ImageLook, RandAugment
from labelwise.learners.base import (
    DifferentiableModel,
    Encoder,
    Learner,
    Model,
    Outputs,
    PiecewiseLinearModel,
    PosteriorModel,
    Progress,
    StreamingEncoder,
    UntrainedLearner,
    check_fit,
)
from labelwise.learners.checkpoint import Checkpoint
from labelwise.learners.encoding import Encoded, encode_data
from labelwise.learners.evidence import model_evidence
from labelwise.learners.factory import Network
from labelwise.learners.history import History, Passed
from labelwise.learners.many import Fits, Job, fit_many
from labelwise.learners.mlp import MLP
from labelwise.learners.network import NetworkLearner, NetworkModel
from labelwise.learners.objectives import (
    CrossEntropy,
    Looks,
    Objective,
    Player,
    Setting,
    Step,
    View,
    list_objectives,
    make_objective,
)
from labelwise.learners.pretraining import Pretraining, pretrain
from labelwise.learners.recipe import Recipe
from labelwise.learners.registry import (
    default_encoder,
    default_learner,
    list_encoders,
    list_learners,
    make_encoder,
    make_learner,
    own_encoder,
)
from labelwise.learners.resnet import ResNet18
from labelwise.learners.saving import load_model, save_model
from labelwise.learners.training import Trained, train

__all__ = [
    "MLP",
    "Checkpoint",
    "Corrupt",
    "CropFlip",
    "CrossEntropy",
    "DifferentiableModel",
    "Distort",
    "Encoded",
    "Encoder",
    "Fits",
    "History",
    "ImageLook",
    "Job",
    "Learner",
    "Looks",
    "Model",
    "Network",
    "NetworkLearner",
    "NetworkModel",
    "Objective",
    "Outputs",
    "Passed",
    "PiecewiseLinearModel",
    "Player",
    "PosteriorModel",
    "Pretraining",
    "Progress",
    "RandAugment",
    "Recipe",
    "ResNet18",
    "Setting",
    "Step",
    "StreamingEncoder",
    "Trained",
    "UntrainedLearner",
    "View",
    "check_fit",
    "default_encoder",
    "default_learner",
    "encode_data",
    "fit_many",
    "list_encoders",
    "list_learners",
    "list_objectives",
    "load_model",
    "make_encoder",
    "make_learner",
    "make_objective",
    "model_evidence",
    "own_encoder",
    "pretrain",
    "save_model",
    "train",
]
