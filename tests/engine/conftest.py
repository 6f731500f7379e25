"""A Ray cluster of two machines, as processes of this one."""

import os

import pytest


@pytest.fixture(scope="session")
def cluster():
    """Two nodes of one processor each; the address is in the fixture's ``address``."""
    if not os.environ.get("CI"):
        pytest.importorskip("ray")
    from labelwise.engine.cluster import import_ray

    ray = import_ray()
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=node)
    found.add_node(**{key: node[key] for key in ("num_cpus", "object_store_memory")})
    yield found
    ray.shutdown()
    found.shutdown()
