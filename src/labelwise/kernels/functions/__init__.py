"""Set functions to maximize, each with its marginal gains; `kernels.greedy` picks with them."""

from labelwise.kernels.functions.base import SetFunction

__all__ = ["SetFunction"]
