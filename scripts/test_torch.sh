#!/usr/bin/env bash
# PyTorch's own wheels on the simulated CUDA runtime and driver, with forebay as their allocator.
#
#   scripts/test_torch.sh [VERSION...]     the tests, by default with 2.13.0
#   scripts/test_torch.sh --run VERSION PROGRAM [ARGUMENT...]   a Python program in that rig
#
# Each version has an environment of its own, .venv-torch-VERSION, some 5 GB of wheels.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/rig.sh

install() { # VERSION
    local list=$root/tests/torch/requirements-$1.txt
    if [ ! -e "$list" ]; then
        echo "test_torch: there is no $list; versions: $(ls tests/torch | sed -n 's/requirements-\(.*\)\.txt/\1/p' | tr '\n' ' ')" >&2
        exit 2
    fi
    environment "torch-$1" "$list"
}

in_rig() { # VERSION PROGRAM [ARGUMENT...]
    local version=$1
    shift
    LD_LIBRARY_PATH=$folder LD_PRELOAD=$runtime PYTHONPATH=$root/python:$root/tests/torch:$root/tests/python \
        FOREBAY_LIBRARY=${FOREBAY_LIBRARY:-$target/release/libforebay.so} \
        "$root/.venv-torch-$version/bin/python" "$@"
}

if [ "${1:-}" = --run ]; then
    version=${2:?usage: scripts/test_torch.sh --run VERSION PROGRAM}
    shift 2
    install "$version"
    simulated_cuda "$version"
    in_rig "$version" "$@"
    exit
fi

failed=0
for version in "${@:-2.13.0}"; do
    install "$version"
    simulated_cuda "$version"
    for test in tests/torch/test_*.py; do
        echo "test_torch: PyTorch $version, $(basename "$test")"
        in_rig "$version" "$test" || failed=1
    done
done
exit $failed
