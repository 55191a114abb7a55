"""Running a network so that a face's numbers do not depend on the faces beside it.

Convolution and matrix libraries choose their algorithm by the shape of the batch, and with it the order of
the sums. So every network here runs on chunks of one fixed size, the last one padded with zeros: a photograph
alone and the same one among a thousand go through the same instructions and give the same bits. (Another
device, another number of threads or another release of torch may differ in the last digit.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

# On the CPU small chunks cost little (16 at a time are 10 % faster) and keep a single photograph quick.
CHUNK_SIZE = {"cpu": 4, "cuda": 64}


def in_chunks(function: Callable[..., Tensor | Iterable[Tensor]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """``function`` of ``inputs`` [B, ...] along the batch, in padded chunks; its outputs [B, ...] as a tuple.

    ``function`` must treat the rows of its inputs independently and keep their order. B may be 0.
    """
    size = CHUNK_SIZE[inputs[0].device.type]
    batch = inputs[0].shape[0]
    pieces: list[tuple[Tensor, ...]] = []
    for start in range(0, max(batch, 1), size):
        chunk = [_padded(x[start : start + size], size) for x in inputs]
        # Full float32 and no algorithm picked by a race: F's features must mean the same on every device.
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            output = function(*chunk)
        rows = min(size, batch - start)
        pieces.append(tuple(t[:rows] for t in ((output,) if isinstance(output, Tensor) else output)))
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def _padded(x: Tensor, size: int) -> Tensor:
    missing = size - x.shape[0]
    return functional.pad(x, [0, 0] * (x.ndim - 1) + [0, missing]) if missing else x
