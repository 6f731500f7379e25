"""What farthest-first takes on a cluster, by arithmetic: nothing is run.

Formulas, with N rows of D numbers of b bytes, n picks, k shards, m rows in a block, F blocks and
P passes: held by a shard 33 N/k bytes of bounds (and the rows, where they are kept in memory);
sent for a block 25 m k bytes of bounds, m D b of points and 17 m back; sent in all n D b k bytes
of centers; computed 2 N n D operations. A pass reads N D b bytes; reading and computing go on at
the same time, so a pass takes the longer of the two, and each block waits for three answers.

How many blocks and passes there are depends on the data: 100,000 x 128 took 5 passes and 16
blocks for 1,000 picks, clumped pools take more. The tables take one pass and four blocks for
every 50 picks.
The k-center of BADGE's gradients is the same with D + C for D.
"""

from __future__ import annotations

from dataclasses import dataclass

from labelwise.kernels.farthest import BLOCK

PICKS_A_PASS = 50
BLOCKS_A_PASS = 4
ANSWERS_A_BLOCK = 3
GB = 1e9


@dataclass(frozen=True)
class Machine:
    """What one shard has to itself.

    Attributes:
        name: what the table calls it.
        flops: single-precision operations a second in matrix products.
        read: bytes a second from where its rows are.
        network: bytes a second to and from the coordinator.
        latency: seconds that a question and its answer take beyond their bytes.
        held: whether the rows are kept in memory.
    """

    name: str
    flops: float
    read: float
    network: float
    latency: float
    held: bool


# 0.2 TFLOP/s a core is what `python -m perf select` measured here.
DISK = Machine("16 cores, NVMe at 3 GB/s, 10 Gbit/s", 3.2e12, 3e9, 1.25e9, 5e-3, False)
MEMORY = Machine("16 cores, rows in memory at 40 GB/s, 10 Gbit/s", 3.2e12, 4e10, 1.25e9, 5e-3, True)
GPU = Machine("GPU at 40 TFLOP/s, rows in its memory, 100 Gbit/s", 4e13, 2e12, 1.25e10, 5e-3, True)


def cost(
    rows: float,
    machine: Machine,
    shards: int,
    picks: int = 10_000,
    width: int = 2048,
    stored: int = 2,
) -> dict[str, object]:
    """A row of the table: bytes held and sent, and seconds."""
    passes = picks / PICKS_A_PASS
    blocks = passes * BLOCKS_A_PASS
    here = rows / shards
    point = width * stored
    asked = BLOCK * (25 * shards + point + 17)
    sent = picks * point * shards
    compute = 2 * here * picks * width / machine.flops
    read = passes * here * point / machine.read
    talk = (blocks * asked + sent) / machine.network
    wait = (blocks * ANSWERS_A_BLOCK + passes) * machine.latency
    local = blocks * 2 * BLOCK * (BLOCK + picks / 2 / passes) * width / machine.flops
    return {
        "rows": f"{rows:.0e}".replace("e+0", "e"),
        "a shard has": machine.name,
        "shards": shards,
        "held a shard, GB": (33 * here + (here * point if machine.held else 0)) / GB,
        "a block, MB": asked / 1e6,
        "sent in all, GB": (blocks * asked + sent) / GB,
        "rounds": int(blocks * ANSWERS_A_BLOCK + passes),
        "products, s": compute,
        "reading, s": read,
        "network and waiting, s": talk + wait,
        "in all, min": (max(compute, read) + talk + wait + local) / 60,
    }


def run(quick: bool = False) -> list[dict[str, object]]:
    """10,000 picks of 2,048 float16 numbers, on three kinds of machine."""
    return [
        cost(rows, machine, shards)
        for rows, counts in ((1e8, (8, 64)), (1e9, (64, 512)))
        for machine in (DISK, MEMORY, GPU)
        for shards in counts
    ]


if __name__ == "__main__":
    from perf.common import table

    print(table(run()))
