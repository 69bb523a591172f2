"""Master weights that lie anywhere in the cell that rounds to their weight, and not in its middle.

Weights of a model in bfloat16 are masters in float32, rounded. A model that is read in bfloat16 has every master in
the middle of its cell, and a learning rate of 2e-5 takes several updates to the border: until then hardly a weight of
the policy moves, and with it neither samples nor gradients. Masters that are spread evenly over their cells cross
borders from the first update on, as many as makes the mean change of the weights that of the masters. The policy
before training is the same to the bit, and what is drawn depends on the seed and the weight's name alone, not on the
number of ranks.
"""

import torch
from torch import Tensor


def dithered(weight: Tensor, seed: int) -> Tensor:
    """float32 of the weight's shape, which rounds to `weight` (bfloat16): evenly distributed between half a unit in
    the last place below and above it. A power of two, whose cell is narrower towards zero, and zero may stay."""
    generator = torch.Generator(weight.device).manual_seed(seed)
    _, exponent = torch.frexp(weight.float())  # of a mantissa in [0.5, 1), of which bfloat16 has 8 bits
    half = torch.ldexp(torch.ones_like(weight, dtype=torch.float32), exponent - 9)
    random = torch.rand(weight.shape, generator=generator, device=weight.device) * 2 - 1
    moved = weight.float() + random * half
    return torch.where((weight != 0) & (moved.bfloat16() == weight), moved, weight.float())
