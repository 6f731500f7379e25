"""Reaching a Ray cluster, or starting one of this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from labelwise.errors import MissingDependencyError, ResourceError

_REACH_SECONDS = 5.0


def import_ray() -> Any:
    """The ray module, with its usage reports off.

    Raises:
        MissingDependencyError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray hides all accelerators from workers that ask for none, and warns of it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "engine 'ray' needs Ray, which is not installed: pip install 'labelwise[ray]'"
        ) from error
    return ray


class Session:
    """A connection to Ray; whoever started a local one also ends it.

    A connection that the process already has is used and left alone. Otherwise the cluster at
    ``address`` or, without one, at RAY_ADDRESS is joined; with neither, or with ``"local"``, one
    is started on this machine: no dashboard, no usage reports.

    Args:
        address: ``host:port``, ``ray://host:port``, ``auto`` or ``local``.

    Attributes:
        ray: the module.

    Raises:
        MissingDependencyError: Ray is not installed.
        ResourceError: the cluster cannot be reached or started.
    """

    def __init__(self, address: str | None = None) -> None:
        self.ray = import_ray()
        self._mine = not self.ray.is_initialized()
        if self._mine:
            self._join(address or os.environ.get("RAY_ADDRESS") or "local")

    def _join(self, address: str) -> None:
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            quiet["include_dashboard"] = False
        else:
            _check_reachable(address)
        try:
            self.ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreachable(address, error) from error

    @property
    def cpus(self) -> int:
        """How many processors the cluster has, at least 1."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        if self._mine:
            self.ray.shutdown()
            self._mine = False


def _check_reachable(address: str) -> None:
    """Refuse at once an address where nobody listens: Ray itself tries for minutes."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _unreachable(address, error) from error
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ResourceError:
    reason = str(error).strip().splitlines()
    return ResourceError(
        f"the Ray cluster at {address!r} cannot be reached: {reason[0] if reason else error!r}; "
        "start it, correct the address (or RAY_ADDRESS), or say 'local' for this machine"
    )
