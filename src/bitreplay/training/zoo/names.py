"""Networks by name, for pictures of 32 to 224 pixels: those of the papers, smaller ones, and a float teacher."""

from __future__ import annotations

from dataclasses import replace

from .network import FAMILIES, NetworkConfig

_QUICKNET = NetworkConfig(widths=(64, 128, 256, 512), blocks=(4, 4, 4, 4), tail_blocks=3)
_EIGHTEEN = NetworkConfig(widths=(64, 128, 256, 512), blocks=(4, 4, 4, 4), tail_blocks=3, stem_strides=(1,), family="reactnet")
_NAMES = {
    "quicknet-small": replace(_QUICKNET, widths=(32, 64, 256, 512)),
    "quicknet": _QUICKNET,
    "quicknet-large": replace(_QUICKNET, blocks=(6, 8, 12, 6)),
    "quicknet-mini": replace(_QUICKNET, widths=(64, 128, 384), blocks=(2, 3, 3), tail_blocks=2, stem_strides=(1, 2)),
    "residual-mini": replace(
        _QUICKNET, widths=(64, 128, 384), blocks=(2, 3, 3), tail_blocks=2, stem_strides=(1, 2), family="residual", cut="none"
    ),
    "reactnet-18": _EIGHTEEN,
    "reactnet-18-half": replace(_EIGHTEEN, widths=(32, 64, 128, 256)),
    "reactnet-mini": replace(_EIGHTEEN, widths=(64, 128, 256), blocks=(4, 4, 4), stem_strides=(1, 2)),
    "birealnet-18": replace(_EIGHTEEN, family="birealnet"),
    "birealnet-18-half": replace(_EIGHTEEN, family="birealnet", widths=(32, 64, 128, 256)),
}


def names() -> list[str]:
    """The known names."""
    return list(_NAMES)


def config_of(name: str, image_size: int = 32, *, cut: str | None = None, tail_blocks: int | None = None) -> NetworkConfig:
    """The shape of a network by name.

    The stem's strides follow from the picture: 32 pixels keep 32 before the first stage, 64 are halved once, from 128 on twice
    (the mini networks, which have a stage less, are halved once more at 32).

    Parameters
    ----------
    name : one of `names()`.
    image_size : side of the picture in pixels, 32 to 224, a multiple of 32.
    cut, tail_blocks : as in `NetworkConfig`; None keeps the name's own.

    Raises
    ------
    ValueError : the name is not known, or the size does not fit.
    """
    if name not in _NAMES:
        raise ValueError(f"network: expected one of {', '.join(_NAMES)}, got {name!r}")
    config = _NAMES[name]
    if not 32 <= image_size <= 224 or image_size % 32:
        raise ValueError(f"image_size: expected a multiple of 32 from 32 to 224, got {image_size}")
    halvings = (image_size >= 64) + (image_size >= 128) + (4 - len(config.widths))
    two = (2 if halvings > 1 else 1, 2 if halvings else 1)
    one = 1 in FAMILIES[config.family].stem_convolutions and halvings <= 1
    strides = (two[1],) if one else two
    blocks = config.tail_blocks if tail_blocks is None else tail_blocks
    return replace(config, image_size=image_size, stem_strides=strides, cut=cut or config.cut, tail_blocks=blocks)
