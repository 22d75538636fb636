#!/usr/bin/env bash
# Makes the virtual environments of the peers that benchmarks/speed/run.py measures, below DIR.
#   usage: install_peers.sh DIR [rt|lce|cl|ortt ...]        PYTHON=python3.11 chooses the interpreter
#   rt   OpenVINO, ncnn, ONNX Runtime, torch, NumPy         lce   larq-compute-engine and what converts for it
#   cl   Avalanche                                          ortt  onnxruntime-training (the last version)
# Torch comes first and is never replaced: a plain install of avalanche-lib, torchvision or pytorchcv
# pulls a newer torch with some 6 GB of GPU packages, hence --no-deps where it stands.
set -euo pipefail
directory=$1
shift
python=${PYTHON:-python3.11}
mkdir -p "$directory"

install() { # NAME ARGUMENTS...: pip install into the environment NAME, made on first use
  local environment="$directory/$1"
  shift
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

rt() {
  install rt numpy==2.3.5 openvino==2026.4.1 onnxruntime==1.31.1 onnx==1.23.2 ncnn==1.0.20261020
  install rt torch==2.13.0
}

lce() {
  install lce tensorflow-cpu==2.15.1 larq-compute-engine==0.16.0 larq==0.14.0 psutil==7.2.2 click==8.5.1 \
    typeguard==4.6.0 tensorflow-datasets==4.8.3 protobuf==3.20.3 tensorflow-metadata==1.14.0 numpy==1.26.4
  install lce --no-deps larq-zoo==2.4.0 zookeeper==1.4.0
}

cl() {
  install cl torch==2.13.0
  install cl --no-deps avalanche-lib==0.6.0 pytorchcv==0.0.74 torchmetrics==1.9.0 lightning-utilities==0.15.3 \
    torchvision==0.28.0 pillow==13.0.0
  install cl torch==2.13.0 psutil==7.2.2 gputil==1.4.0 scikit-learn==1.9.1 matplotlib==3.11.2 numpy==2.4.6 tqdm==4.70.1 \
    gdown==6.5.1 dill==0.4.1 setuptools==80.10.2 qpsolvers==4.13.0 quadprog==0.1.14 tensorboard==2.21.0 wandb==0.31.0 \
    packaging==26.3 requests==2.34.2
}

ortt() {
  install ortt torch==2.13.0
  install ortt --no-deps onnxruntime-training-cpu==1.19.2
  install ortt cerberus==1.3.8 flatbuffers==25.12.19 h5py==3.16.0 numpy==1.26.4 onnx==1.16.2 packaging==26.3 protobuf==4.25.9 \
    sympy==1.14.0
}

for name in "${@:-}"; do
  case $name in
    "") rt && lce && cl && ortt ;;
    rt | lce | cl | ortt) "$name" ;;
    *) echo "install_peers.sh: no environment '$name'" >&2 && exit 2 ;;
  esac
done
