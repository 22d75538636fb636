"""How an imported file agrees with LCE, operation by operation: each node is fed with what LCE gave.

    operations.py FILE TENSORS PICTURES     TENSORS and PICTURES as `lce_files.py tensors` has them

Prints how many binary convolutions have the same dot products as LCE, and the largest difference of any other value, relative to the largest magnitude of
LCE's.  Exit code 1 where a sum differs or a value by more than 1e-4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from bitreplay.training.importers.graph import dot_products, run_node
from bitreplay.training.importers.tflite import read_tflite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("tensors", type=Path)
    parser.add_argument("pictures", type=Path)
    given = parser.parse_args()
    graph, _ = read_tflite(given.file.read_bytes(), given.file.name)
    found = np.load(given.tensors)

    def tensor(array: np.ndarray) -> torch.Tensor:
        maps = array if array.ndim == 4 else array.reshape(len(array), 1, 1, -1)
        return torch.from_numpy(np.ascontiguousarray(maps.transpose(0, 3, 1, 2)))

    values: list[torch.Tensor] = [tensor(np.load(given.pictures).astype(np.float32))]
    sums, equal_sums, compared, worst, where = 0, 0, 0, 0.0, ""
    for node in graph.nodes:
        read = [values[v] for v in node.reads]
        if node.kind == "binary" and f"sum{node.tensor}" in found:
            sums += 1
            own_sums = dot_products(node, read[0])
            equal = torch.equal(own_sums, tensor(found[f"sum{node.tensor}"]))
            equal_sums += equal
            if not equal:
                print(f"dot products differ: {node.name}, map {tuple(own_sums.shape[2:])}, pad of {node.pad_value}")
        own, name = run_node(node, read), f"t{node.tensor}"
        if node.tensor >= 0 and name in found:  # the next node reads LCE's
            theirs = tensor(found[name])
            difference = float((own - theirs).abs().max() / theirs.abs().max().clamp(min=1e-20))
            compared += 1
            if difference > worst:
                worst, where = difference, node.name
            own = theirs
        values.append(own)
    print(
        f"{given.file.name}: {len(graph.nodes)} nodes; dot products equal {equal_sums}/{sums}; {compared} values, worst {worst:.1e} {where}"
    )
    sys.exit(equal_sums != sums or worst > 1e-4)


if __name__ == "__main__":
    main()
