"""The executable docs/method.md: what the engine must compute, bit for bit, in plain numpy and Python integers.

Written from docs/method.md alone, slow and simple on purpose; one file per concern, this one gathers them. Section numbers are those of
docs/method.md. Points that the method leaves open are marked "OPEN".
"""

from .arithmetic import below, divr, draw, isqrt, mix, noise, permutation, row_hash, rs, sat16, sat32
from .head import consolidate, exp2neg, learning_rate, log2q, logits, prior_logits, softmax, training_step
from .lda import LinearClassifier, Sums, solve, sums_of, without_class
from .learner import ReferenceLearner
from .near_equal import count_once, differing_bits, most_differing
from .network import (
    Activation,
    BlockConstants,
    ReferenceNetwork,
    average_pool,
    binary_conv,
    block,
    block_constants,
    block_sums,
    conv,
    conv_sums,
    cut_bits,
    dot,
    down,
    input_values,
    pack_bits,
    pool,
    pooled,
    signs,
    tail_stream,
    unpack_bits,
    whitened,
)
from .replay import level, update_memory
from .views import VIEWS, enlarged, views_of

__all__ = [
    "VIEWS",
    "Activation",
    "BlockConstants",
    "LinearClassifier",
    "ReferenceLearner",
    "ReferenceNetwork",
    "Sums",
    "average_pool",
    "below",
    "binary_conv",
    "block",
    "block_constants",
    "block_sums",
    "consolidate",
    "conv",
    "conv_sums",
    "count_once",
    "cut_bits",
    "differing_bits",
    "divr",
    "dot",
    "down",
    "draw",
    "enlarged",
    "exp2neg",
    "input_values",
    "isqrt",
    "learning_rate",
    "level",
    "log2q",
    "logits",
    "mix",
    "most_differing",
    "noise",
    "pack_bits",
    "permutation",
    "pool",
    "pooled",
    "prior_logits",
    "row_hash",
    "rs",
    "sat16",
    "sat32",
    "signs",
    "softmax",
    "solve",
    "sums_of",
    "tail_stream",
    "training_step",
    "unpack_bits",
    "update_memory",
    "views_of",
    "whitened",
    "without_class",
]
