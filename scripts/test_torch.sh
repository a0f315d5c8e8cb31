#!/usr/bin/env bash
# PyTorch's own wheels on the simulated CUDA runtime and driver, with forebay as their allocator.
#
#   scripts/test_torch.sh [VERSION...]     the tests, by default with 2.13.0 and 2.6.0
#   scripts/test_torch.sh --python         those of the other Python doors
#   scripts/test_torch.sh --run VERSION PROGRAM [ARGUMENT...]   a Python program in that rig
#
# Each version has an environment of its own, .venv-torch-VERSION, some 5 GB of wheels.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}

install() { # VERSION
    local into=$root/.venv-torch-$1 list=${2:-$root/tests/torch/requirements-$1.txt}
    if [ ! -e "$list" ]; then
        echo "test_torch: there is no $list; versions: $(ls tests/torch | sed -n 's/requirements-\(.*\)\.txt/\1/p' | tr '\n' ' ')" >&2
        exit 2
    fi
    if ! cmp -s "$list" "$into/installed"; then
        echo "test_torch: installing $(basename "$list" .txt) for $1" >&2
        python3 -m venv --clear "$into"
        "$into/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$list"
        cp "$list" "$into/installed"
    fi
}

# The simulated libraries under the names by which they are looked for.
rig() { # VERSION
    local major=13 built=$target/debug
    cargo build --quiet --locked -p forebay-sim-cuda -p forebay-sim-cudart
    if [ "${1%%.*}.$(echo "$1" | cut -d. -f2)" = 2.6 ]; then
        major=12 built=$target/cuda-12/debug
        cargo build --quiet --locked -p forebay-sim-cudart --features cuda-12 --target-dir "$target/cuda-12"
    fi
    folder=$root/build/torch/$1
    mkdir -p "$folder"
    ln -sf "$target/debug/libsim_cuda.so" "$folder/libcuda.so.1"
    ln -sf "$built/libsim_cudart.so" "$folder/libcudart.so.$major"
    # PyTorch asks it before it maps pages.
    ln -sf "$built/libsim_cudart.so" "$folder/libnvidia-ml.so.1"
    runtime=$folder/libcudart.so.$major
}

in_rig() { # VERSION PROGRAM [ARGUMENT...]
    local version=$1
    shift
    LD_LIBRARY_PATH=$folder LD_PRELOAD=$runtime PYTHONPATH=$root/python:$root/tests/torch \
        FOREBAY_LIBRARY=${FOREBAY_LIBRARY:-$target/release/libforebay.so} \
        "$root/.venv-torch-$version/bin/python" "$@"
}

if [ "${1:-}" = --run ]; then
    version=${2:?usage: scripts/test_torch.sh --run VERSION PROGRAM}
    shift 2
    install "$version"
    rig "$version"
    in_rig "$version" "$@"
    exit
fi

failed=0
if [ "${1:-}" = --python ]; then
    install python "$root/tests/python/requirements.txt"
    rig 2.13.0
    # They find the driver themselves.
    runtime=
    for test in tests/python/test_*.py; do
        echo "test_torch: $(basename "$test")"
        in_rig python "$test" || failed=1
    done
    exit $failed
fi
for version in "${@:-2.13.0}"; do
    install "$version"
    rig "$version"
    for test in tests/torch/test_*.py; do
        echo "test_torch: PyTorch $version, $(basename "$test")"
        in_rig "$version" "$test" || failed=1
    done
done
exit $failed
