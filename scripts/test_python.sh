#!/usr/bin/env bash
# The Python package: its tests, on the simulated driver, and its wheel.
#
#   scripts/test_python.sh             everything
#   scripts/test_python.sh FILE...     these tests, beside the sources
#
# The wheel's tests run where pip installed it and nothing else but what it asks for.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/rig.sh

export FOREBAY_LIBRARY=${FOREBAY_LIBRARY:-$target/release/libforebay.so}
failed=0

run() { # PYTHON TEST
    echo "test_python: $(basename "$2")"
    "$1" "$2" || failed=1
}

environment python "$root/tests/python/requirements.txt"
simulated_cuda 2.13.0
tests=("$@")
if [ $# = 0 ]; then tests=(tests/python/test_*.py); fi
for test in "${tests[@]}"; do
    # They find the driver themselves.
    LD_LIBRARY_PATH=$folder PYTHONPATH=$root/python run "$root/.venv-python/bin/python" "$test"
done
if [ $# -gt 0 ]; then exit $failed; fi

echo "test_python: the wheel"
rm -rf build/wheel
.venv-python/bin/pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel ./python
.venv-python/bin/auditwheel show build/wheel/forebay-*.whl
rm -rf .venv-wheel
python3 -m venv .venv-wheel
.venv-wheel/bin/pip install --quiet --disable-pip-version-check build/wheel/forebay-*.whl
unset FOREBAY_LIBRARY
# Not beside the sources: what is imported is the wheel.
for test in $(grep -l '^# Needs: numpy$' tests/python/test_*.py); do
    run "$root/.venv-wheel/bin/python" "$test"
done
exit $failed
