"""Files as C source: a model or a state as an array of constants, for a device without a file system (docs/device.md)."""

from __future__ import annotations

import re
from pathlib import Path

from . import _engine
from .disk import read_bytes, replace_file
from .model import Model
from .state import parse_state

_A_LINE = 24  # bytes

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}")


def c_source(content: bytes, digest: str, symbol: str) -> bytes:
    """C source of a file's bytes: `symbol`, an array at a multiple of 64, `symbol`_size and `symbol`_digest.

    Raises
    ------
    ValueError : `symbol` is no identifier.
    """
    if not _IDENTIFIER.fullmatch(symbol):
        raise ValueError(f"symbol: expected a C identifier such as device_model, got {symbol!r:.80}")
    numbers = [str(value) for value in range(256)]
    lines = (",".join([numbers[value] for value in content[at : at + _A_LINE]]) for at in range(0, len(content), _A_LINE))
    head = f"""/* Made by `bitreplay export-c`; {len(content)} bytes, digest {digest}.
 *
 *     extern const unsigned char {symbol}[];
 *     extern const size_t {symbol}_size;
 *     extern const char {symbol}_digest[];
 */
#include <stddef.h>

extern const unsigned char {symbol}[];
extern const size_t {symbol}_size;
extern const char {symbol}_digest[];

const size_t {symbol}_size = {len(content)}u;
const char {symbol}_digest[] = "{digest}";
#if defined(__GNUC__)
__attribute__((aligned(64)))
#elif __STDC_VERSION__ >= 201112L
_Alignas(64)
#else
#error "the array must be at a multiple of 8: say so in this compiler's words"
#endif
const unsigned char {symbol}[{len(content)}] = {{
"""
    return (head + ",\n".join(lines) + "\n};\n").encode()


def export_c(source: Model | Path, out: Path, symbol: str | None = None) -> tuple[str, int]:
    """Write a model, or the file of a model or state, as C source.

    Parameters
    ----------
    source : a model, or the path of a model file or of a state whose model ships with the package or is inside.
    out : C file to write; replaced as a whole.
    symbol : name of the array; default ``device_model`` or ``device_state``.

    Returns
    -------
    The symbol, and the number of bytes in the array.

    Raises
    ------
    FormatError : the file is not sound.
    ValueError : `symbol` is no identifier.
    OSError : a file cannot be read or written.
    """
    if isinstance(source, Model):
        kind, digest, content = "model", source.digest, source.file_content()
    else:
        content = read_bytes(source)
        kind, digest = _engine.label_of(content)
        if kind == "state":
            parse_state(content, None, str(source))
        else:
            Model(content, str(source))
    symbol = symbol or f"device_{kind}"
    replace_file(out, c_source(content, digest, symbol))
    return symbol, len(content)
