#!/usr/bin/env bash
# Instructions per operation, counted by cachegrind, against benches/instructions/budget.txt.
#
#   scripts/budget.sh           builds, counts, compares; fails when a case is more than 2 % over
#   scripts/budget.sh --bless   writes the counts down as the new budget
#
# Counts repeat where times do not. Each is a difference of two runs, so that what happens
# once is not in it. The library is the one in ${CARGO_TARGET_DIR:-target}/release.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

budget=benches/instructions/budget.txt
target=${CARGO_TARGET_DIR:-target}
over_percent=2

bless=
case "${1:-}" in
'') ;;
--bless) bless=yes ;;
*)
    echo "usage: scripts/budget.sh [--bless]" >&2
    exit 2
    ;;
esac
command -v valgrind >/dev/null || { echo "budget: valgrind is not installed" >&2; exit 1; }

# name, its case in pairs.c, rounds, and whether the hit path is all it may take
cases="
pair-64     pair-64       20000 hits
pair-4KiB   pair-4096     20000 hits
pair-64KiB  pair-65536    20000 hits
pair-16MiB  pair-16777216 20000 hits
batch-256   batch-256     20    any
across-256  across-256    20    any
replay-gpt  replay-examples_c/gpt_step.csv.gz 20 any
"

cargo build --release --lib --quiet
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cc -O2 -std=gnu11 -Wall -Wextra -Wno-missing-field-initializers -Werror \
    -Iinclude -o "$scratch/pairs" \
    benches/instructions/pairs.c -L"$target/release" -lforebay -lpthread

# The name that programs look for.
ln -s "$(realpath "$target/release/libforebay.so")" "$scratch/libforebay.so.0"

# Runs a case and prints: operations, instructions, those of them off the hit path.
count() {
    local out="$scratch/$1.$3" operations
    # Of caches, which are not simulated, valgrind warns all the same.
    operations=$(LD_LIBRARY_PATH="$scratch" valgrind --quiet --tool=cachegrind \
        --cache-sim=no --cachegrind-out-file="$out" "$scratch/pairs" "$2" "$3" \
        2> >(grep -v 'warning: L3 cache found' >&2))
    # A line is "line instructions", below the "fn=" of its function.
    awk -v operations="$operations" '
        /^fn=/ { slow = /alloc_slow|free_slow|find_block|free_block/ }
        /^[0-9]/ { if (slow) off += $2 }
        /^summary:/ { sum = $2 }
        END { printf "%d %d %d\n", operations, sum, off }' "$out"
}

failed=0
counts="# Instructions per operation: a pair of calls; a block of a batch, or handed from one
# thread to another, taken and given back; a row of a trace. Written by scripts/budget.sh
# --bless.
"
printf '%-12s %12s %12s %8s\n' case counted budget change
while read -r name program rounds path; do
    [ -n "$name" ] || continue
    once=$(count "$name" "$program" "$rounds")
    twice=$(count "$name" "$program" $((2 * rounds)))
    read -r operations1 sum1 off1 <<<"$once"
    read -r operations2 sum2 off2 <<<"$twice"
    if [ "$operations1" -lt 1 ] || [ "$operations2" -ne $((2 * operations1)) ]; then
        echo "budget: $name did $operations1 and then $operations2 operations" >&2
        exit 1
    fi
    if [ "$path" = hits ] && [ "$off2" -ne "$off1" ]; then
        echo "budget: $name left the hit path for $((off2 - off1)) instructions" >&2
        exit 1
    fi
    counted=$(awk "BEGIN { printf \"%.1f\", ($sum2 - $sum1) / ($operations2 - $operations1) }")
    counts+=$(printf '%-12s %s' "$name" "$counted")$'\n'
    known=$(awk -v name="$name" '$1 == name && $2 > 0 { print $2 }' "$budget" 2>/dev/null || true)
    if [ -z "$known" ]; then
        printf '%-12s %12s %12s\n' "$name" "$counted" none
        failed=1
        continue
    fi
    verdict=$(awk "BEGIN {
        change = 100 * ($counted - $known) / $known
        printf \"%+7.1f%%\", change
        if (change > $over_percent) print \"  over\"
        else if (change < -$over_percent) print \"  lower: bless it\"
    }")
    printf '%-12s %12s %12s %s\n' "$name" "$counted" "$known" "$verdict"
    case "$verdict" in *over) failed=1 ;; esac
done <<<"$cases"

if [ "$bless" ]; then
    printf '%s' "$counts" >"$budget"
    echo "written to $budget"
elif [ $failed -ne 0 ]; then
    echo "budget: over by more than $over_percent %, or a case without a budget" >&2
    exit 1
fi
