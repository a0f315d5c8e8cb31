#!/usr/bin/env bash
# forebay in Ray's workers: Ray in an environment of its own, .venv-ray, some 400 MB of wheels.
set -euo pipefail
cd "$(dirname "$0")/.."

list=tests/ray/requirements.txt
if ! cmp -s "$list" .venv-ray/installed; then
    echo "test_ray: installing what $list lists" >&2
    python3 -m venv --clear .venv-ray
    .venv-ray/bin/pip install --quiet --disable-pip-version-check --no-deps -r "$list"
    cp "$list" .venv-ray/installed
fi
export FOREBAY_LIBRARY=${FOREBAY_LIBRARY:-${CARGO_TARGET_DIR:-target}/release/libforebay.so}
# Ray's processes have folders of their own.
FOREBAY_LIBRARY=$(realpath "$FOREBAY_LIBRARY")
RAY_USAGE_STATS_ENABLED=0 PYTHONPATH=$PWD/python exec .venv-ray/bin/python tests/ray/test_ray.py
