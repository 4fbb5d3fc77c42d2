#!/bin/sh
# Builds the stack that D4RL's scores were measured with, in an environment of its own:
#     scripts/legacy.sh [FOLDER]        .venv-legacy by default
# gym 0.23.1, mujoco-py 2.1.2.14, D4RL 1.1, and MuJoCo 2.1.0 in FOLDER/mujoco210. It needs nothing else of dqlab.
# LEGACY_PYTHON chooses the interpreter (3.8 to 3.11: Cython 0.29 knows no later one). A second call does nothing;
# after an interruption it goes on.
set -eu

folder=${1:-.venv-legacy}
stamp=$folder/.ready
recipe=1
debian="libosmesa6-dev libgl1-mesa-dev libglew-dev patchelf gcc"

say() { echo "legacy: $*"; }
stop() { echo "legacy: error: $*" >&2; exit 1; }

if [ "$(cat "$stamp" 2>/dev/null)" = "$recipe" ]; then
    say "$folder is ready"
    exit 0
fi

fits() { "$1" -c 'import sys; sys.exit(not (3, 8) <= sys.version_info < (3, 12))' 2>/dev/null; }

find_python() {
    for python in ${LEGACY_PYTHON:-python3.11 python3.10 python3}; do
        if fits "$python"; then echo "$python"; return; fi
    done
    stop "no Python 3.8 to 3.11 among: ${LEGACY_PYTHON:-python3.11, python3.10, python3}." \
        "Name one: LEGACY_PYTHON=/path/python3.11 make legacy"
}

has_header() { echo "#include <$1>" | gcc -E $2 - >/dev/null 2>&1; }

python_headers() { "$python" -c 'import sysconfig; print("-I" + sysconfig.get_paths()["include"])'; }

lacking() {
    command -v gcc >/dev/null && command -v patchelf >/dev/null && has_header GL/osmesa.h "" \
        && has_header GL/gl.h "" && has_header GL/glew.h "" || echo "$debian"
    has_header Python.h "$(python_headers)" \
        || "$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])'
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
}

system_packages() {
    packages=$(lacking | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    command="apt-get install -y --no-install-recommends $packages"
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || stop "system packages are missing: sudo $command"
    say "$command"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive $command -qq; } >"$folder.apt.log" 2>&1 \
        || { tail -n 3 "$folder.apt.log" >&2; stop "failed: $command (see $folder.apt.log)"; }
    rm -f "$folder.apt.log"
    packages=$(lacking | tr '\n' ' ')
    [ -z "$packages" ] || stop "still missing after their installation: $packages"
}

environment() {
    "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder"
    fits "$folder/bin/python" || stop "$folder has another Python than 3.8 to 3.11: remove it and start again."
}

pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }

python_packages() {
    pip install -q "setuptools<66" wheel "numpy<2.3" "Cython==0.29.37" cffi glfw imageio "fasteners~=0.15" \
        six h5py tqdm termcolor click "gym-notices>=0.0.4" cloudpickle
    pip install -q --no-deps --no-build-isolation "gym==0.23.1" "mujoco-py==2.1.2.14"
    pip install -q --no-deps "d4rl==1.1"
}

# A wheel on the index carries MuJoCo 2.1.0 itself: library, headers, GLEW.
mujoco_tree() {
    [ -d "$folder/mujoco210" ] && return
    rm -rf "$folder/fetched"
    pip download -q --no-deps --only-binary=:all: --python-version 3.8 -d "$folder/fetched" "free-mujoco-py==2.1.6"
    "$folder/bin/python" -m zipfile -e "$folder"/fetched/*.whl "$folder/fetched/wheel"
    mv "$folder/fetched/wheel/mujoco_py/binaries/linux/mujoco210" "$folder/mujoco210"
    rm -rf "$folder/fetched"
}

compile_binding() {
    say "compiling mujoco-py (about a minute)"
    tree=$(cd "$folder/mujoco210" && pwd)
    MUJOCO_PY_FORCE_CPU=1 MUJOCO_PY_MUJOCO_PATH=$tree LD_LIBRARY_PATH=$tree/bin${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        "$folder/bin/python" -c "import mujoco_py" >"$folder/compile.log" 2>&1 \
        || { tail -n 5 "$folder/compile.log" >&2; stop "mujoco-py does not compile (see $folder/compile.log)"; }
}

[ "$(uname -sm)" = "Linux x86_64" ] || stop "MuJoCo 2.1.0 is to be had for Linux on x86_64 only."
python=$(find_python)
system_packages
say "building $folder with $("$python" --version)"
environment
python_packages
mujoco_tree
compile_binding
echo "$recipe" >"$stamp"
say "$folder is ready"
