#!/usr/bin/env bash
# forebay in Ray's workers: Ray in an environment of its own, .venv-ray, some 400 MB of wheels.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/rig.sh

environment ray tests/ray/requirements.txt
# Ray's processes have folders of their own.
FOREBAY_LIBRARY=$(realpath "${FOREBAY_LIBRARY:-$target/release/libforebay.so}")
export FOREBAY_LIBRARY
RAY_USAGE_STATS_ENABLED=0 PYTHONPATH=$root/python exec .venv-ray/bin/python tests/ray/test_ray.py
