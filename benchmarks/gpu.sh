#!/bin/sh
# All checks that need an NVIDIA GPU, in one run of under eight minutes. Results: $OUT/results.json, results.md, curve.png.
#
#     benchmarks/gpu.sh [--device cpu --smoke] [--data FILE.hdf5] [--until SECONDS] ...
#
# Needs a Python ($PYTHON; by default .venv's, if there is one, or python3) with PyTorch, and gin-config. Packages may lie
# as wheels in .whl/: they are installed into $SITE. h5py: else made-up data; gymnasium and mujoco: else the product's door
# fails and weights are kept, for --evaluate elsewhere; matplotlib: curve. See "Fifteen minutes with a card" in README.md.
set -u
cd "$(dirname "$0")/.." || exit
[ -x .venv/bin/python ] && own=.venv/bin/python
PYTHON=${PYTHON:-${own:-python3}}
OUT=${OUT:-runs/gpu}
SITE=${SITE:-/tmp/site}
LIMIT=${LIMIT:-475}
if [ -d .whl ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$SITE" .whl/*.whl || echo "Some wheels could not be installed."
fi
export PYTHONPATH="$PWD:$PWD/benchmarks:$SITE${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$PYTHON" -c 'import torch, gin' 2>/dev/null || { echo "$PYTHON has no torch or no gin-config: say PYTHON=... of one that does."; exit 2; }
mkdir -p "$OUT"
"$PYTHON" -c 'import gymnasium, mujoco' 2>/dev/null || echo "$PYTHON has no gymnasium or no mujoco: training cannot evaluate (benchmarks/README.md lists the wheels)."
timeout "$LIMIT" "$PYTHON" -m gpu --out "$OUT" "$@" 2>"$OUT/errors.log"
code=$?
[ $code -eq 0 ] || tail -n 20 "$OUT/errors.log"
exit $code
