#!/usr/bin/env bash
# The check on a machine with an NVIDIA GPU, which needs no Rust there: the conformance suite, the
# benchmark, PyTorch's allocators beside it, and forebay under PyTorch (its tests, and training), in some
# ten minutes, into one file of benches/results/.
#
#   scripts/gpu_check.sh --pack DIR       where Rust is: builds the programs and puts them into DIR
#   scripts/gpu_check.sh DIR [OUT.json]   where the GPU is: runs them
#   scripts/gpu_check.sh --sim DIR OUT.json  anywhere: the same on the simulated driver that the
#                                         programs have in them, to check this script
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tests='cuda graph sleep share'

pack() {
    local into=$1 name
    mkdir -p "$into"
    cd "$here/.."
    built() { # NAME: the executable of that target, from what cargo says on stdin
        python3 -c '
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if said.get("executable") and said["target"]["name"] == sys.argv[1]:
        print(said["executable"])' "$1"
    }
    for name in $tests; do
        cp "$(cargo test --locked --no-run --test "$name" --message-format=json 2>/dev/null | built "$name")" \
            "$into/test_$name"
    done
    cp "$(cargo bench --locked --no-run --bench cuda --message-format=json 2>/dev/null | built cuda)" \
        "$into/bench_cuda"
    cp benches/cuda/torch_peers.py benches/torch/train.py "$into/"
    cargo build --quiet --locked --release
    cp "${CARGO_TARGET_DIR:-target}/release/libforebay.so" "$into/"
    cp -r python/forebay "$into/"
    mkdir -p "$into/torch_tests"
    cp tests/torch/*.py "$into/torch_tests/"
    echo "packed into $into: $(ls "$into" | tr '\n' ' ')"
}

if [ "${1:-}" = --pack ]; then
    pack "${2:?usage: scripts/gpu_check.sh --pack DIR}"
    exit
fi
simulated=
if [ "${1:-}" = --sim ]; then
    simulated=1
    shift
fi
folder=${1:?usage: scripts/gpu_check.sh DIR [OUT.json], or --pack DIR}
if [ "$simulated" ]; then
    gpu=simulated driver=simulated
else
    if ! gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1) || [ -z "$gpu" ]; then
        echo 'gpu_check: there is no NVIDIA GPU here (nvidia-smi finds none)' >&2
        exit 1
    fi
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
    export FOREBAY_TEST_GPU=1
fi
name=$(echo "$gpu" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
out=${2:-$here/../benches/results/$(date +%F)-$name.json}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

for test in $tests; do
    echo "gpu_check: $test" >&2
    status=0
    timeout 100 "$folder/test_$test" --test-threads=1 >"$work/test_$test" 2>&1 || status=$?
    echo "$status" >"$work/status_$test"
    [ $status -eq 0 ] || { failed=1; tail -40 "$work/test_$test" >&2; }
done
echo 'gpu_check: benchmark' >&2
timeout 100 "$folder/bench_cuda" --bench >"$work/bench" 2>"$work/bench_errors" || failed=1
if [ ! "$simulated" ] && python3 -c 'import torch' 2>/dev/null; then
    echo 'gpu_check: PyTorch' >&2
    timeout 150 python3 "$folder/torch_peers.py" >>"$work/bench" 2>>"$work/bench_errors" || failed=1
    export PYTHONPATH=$folder:$folder/torch_tests FOREBAY_LIBRARY=$folder/libforebay.so
    for file in "$folder"/torch_tests/test_*.py; do
        said=$(basename "$file" .py)
        echo "gpu_check: PyTorch, $said" >&2
        status=0
        timeout 120 python3 "$file" -v >"$work/$said.torch" 2>&1 || status=$?
        echo "$status" >"$work/status_$said.torch"
        [ $status -eq 0 ] || { failed=1; tail -40 "$work/$said.torch" >&2; }
    done
    timeout 240 python3 "$folder/train.py" >>"$work/bench" 2>>"$work/bench_errors" || failed=1
else
    echo '{"bench":"cuda","case":"peers","missing":"torch"}' >>"$work/bench"
fi

mkdir -p "$(dirname "$out")"
python3 - "$work" "$out" "$gpu" "$driver" "$tests" <<'PYTHON'
import datetime, json, pathlib, re, sys
work, out, gpu, driver, tests = sys.argv[1:]
work = pathlib.Path(work)
results = {}
for test in tests.split():
    text = (work / f"test_{test}").read_text(errors="replace")
    lines = re.findall(r"^test (\S+) \.\.\. (\w+)$", text, re.M)
    results[test] = {"status": int((work / f"status_{test}").read_text()), "tests": dict(lines)}
for said in sorted(work.glob("test_*.torch")):
    lines = re.findall(r"^(test_\w+) \(\S+\) \.\.\. (\w+)", said.read_text(errors="replace"), re.M)
    status = int((work / f"status_{said.name}").read_text())
    results["torch " + said.stem] = {"status": status, "tests": dict(lines)}
figures = [json.loads(line) for line in (work / "bench").read_text().splitlines() if line.startswith("{")]
pathlib.Path(out).write_text(json.dumps({
    "date": datetime.date.today().isoformat(), "gpu": gpu, "driver": driver,
    "tests": results, "figures": figures,
    "errors": (work / "bench_errors").read_text(errors="replace").splitlines()[-20:],
}, indent=1) + "\n")
PYTHON
echo "gpu_check: $([ $failed -eq 0 ] && echo passed || echo FAILED), written to $out"
exit $failed
