"""How an imported file's integers agree with its float network: operation by operation, and end to end.

    integers.py FILE PICTURES     PICTURES: uint8 (N, S, S, 3), .npy; they calibrate, and the first two are compared operation by operation

Prints by kind the largest difference in units of the result, and end to end the correlation of the features and how many answers are the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bitreplay.model import write_model
from bitreplay.training.importers.quantise import Preprocessing, blocks_of, quantise
from bitreplay.training.importers.simplify import simplify
from bitreplay.training.importers.tflite import read_tflite

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from imported_operations import worst_units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("pictures", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    read, _ = read_tflite(given.file.read_bytes(), given.file.name)
    graph, images = simplify(read), np.load(given.pictures)
    try:
        quantised, seen = quantise(graph, images, Preprocessing())
    except ValueError as error:
        print(f"{given.file.name}: refused: {error}")
        return
    units = worst_units(quantised, images[:2], Preprocessing())
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", quantised.network, quantised.tensors, {})
        model.network.latents(images[:2])
        start = time.perf_counter()
        rows = model.network.features_of_latents(model.network.latents(np.ascontiguousarray(images)))
        milliseconds = (time.perf_counter() - start) / len(images) * 1e3
    features = quantised.features(rows)
    spread = np.maximum(seen.features.std(0), 0.01 * seen.features.std())
    z = [(f - seen.features.mean(0)) / spread for f in (features, seen.features)]
    weight, bias = graph.classifier or (np.eye(features.shape[1]), np.zeros(features.shape[1]))
    same = ((features @ weight.T + bias).argmax(1) == (seen.features @ weight.T + bias).argmax(1)).mean()
    print(
        f"{given.file.name}: {len(read.nodes)} nodes, {len(quantised.network['prefix'])} operations, {len(blocks_of(quantised.graph))} blocks; "
        + ", ".join(f"{kind} {value:.2f}" for kind, value in units.items())
        + f"; correlation {np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*z, strict=True)]):.3f}, same answers {same:.3f}, {milliseconds:.1f} ms a picture"
    )


if __name__ == "__main__":
    main()
