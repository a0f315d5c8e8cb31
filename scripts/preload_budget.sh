#!/usr/bin/env bash
# What the preloaded library costs programs that do nothing large: instructions, counted by cachegrind,
# with and without it. Fails when a program takes more than 2 % more, or a pair of malloc and free more
# than ten instructions more; or a pair that the pool serves more than 165.
#
#   scripts/preload_budget.sh
#
# Each count is a difference of two runs, so that what happens once is not in it; the start is told
# apart, and bounded too. The libraries are those in ${CARGO_TARGET_DIR:-target}/release.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
over_percent=2
over_pair=10
over_start=2000000
over_pooled=165
for tool in valgrind python3 sqlite3 setarch; do
    command -v $tool >/dev/null || { echo "preload_budget: $tool is not installed" >&2; exit 1; }
done

cargo build --release --quiet -p forebay -p forebay-preload
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
ln -s "$(realpath "$target/release/libforebay_preload.so")" "$scratch/libforebay_preload.so"
ln -s "$(realpath "$target/release/libforebay.so")" "$scratch/libforebay.so.0"
cc -O2 -std=gnu11 -Wall -Wextra -Werror -o "$scratch/small" benches/instructions/small.c

objects='import sys
for turn in range(int(sys.argv[1])):
    table = {}
    for n in range(3000):
        table[str(n)] = [n, (n, n + 1), {"n": n}, "text %d" % n]'
rows() { # ROUNDS
    echo "with recursive n(i) as (select 1 union all select i+1 from n where i<$((2000 * $1)))
        select count(*), sum(length('row ' || (i * 7919 % 10007))) from n;"
}

# The interpreter itself, where `python3` is a script that looks for it.
python=$(python3 -c "import sys; print(sys.executable)")

# count PRELOAD PROGRAM ROUNDS: the instructions of a whole run.
count() {
    local out="$scratch/out" program=("$scratch/small" "$3")
    case $2 in
    pooled) program=("$scratch/small" "$3" 65536) ;;
    python) program=("$python" -S -c "$objects" "$3") ;;
    sqlite) program=(sqlite3 :memory: "$(rows "$3")") ;;
    esac
    LD_PRELOAD=$1 PYTHONHASHSEED=0 PYTHONMALLOC=malloc setarch -R valgrind --quiet --tool=cachegrind \
        --cache-sim=no --cachegrind-out-file="$out" "${program[@]}" >/dev/null \
        2> >(grep -v 'warning: L3 cache found' >&2)
    awk '/^summary:/ { print $2 }' "$out"
}

failed=0
printf '%-8s %14s %14s %9s %12s\n' program without with change 'start +'
for program in pairs python sqlite; do
    rounds=4
    if [ $program = pairs ]; then rounds=20000; fi
    plain1=$(count "" $program $rounds)
    plain2=$(count "" $program $((2 * rounds)))
    ours1=$(count "$scratch/libforebay_preload.so" $program $rounds)
    ours2=$(count "$scratch/libforebay_preload.so" $program $((2 * rounds)))
    plain=$((plain2 - plain1)) ours=$((ours2 - ours1))
    start=$((ours1 - ours - (plain1 - plain)))
    verdict=
    if [ $program = pairs ]; then
        # Four pairs a round.
        change=$(awk "BEGIN { printf \"%+.1f\", ($ours - $plain) / $rounds / 4 }")
        verdict=$(awk "BEGIN { if ($change > $over_pair) print \"over\" }")
    else
        change=$(awk "BEGIN { printf \"%+.2f%%\", 100 * ($ours - $plain) / $plain }")
        verdict=$(awk "BEGIN { if (100 * ($ours - $plain) > $over_percent * $plain) print \"over\" }")
    fi
    [ "$start" -le $over_start ] || verdict=over
    printf '%-8s %14d %14d %9s %12d %s\n' $program $plain $ours "$change" $start "$verdict"
    [ -z "$verdict" ] || failed=1
done

# A pair of 64 KiB, with the loop around it: what the C library does about those is no measure.
rounds=20000
once=$(count "$scratch/libforebay_preload.so" pooled $rounds)
twice=$(count "$scratch/libforebay_preload.so" pooled $((2 * rounds)))
pooled=$(awk "BEGIN { printf \"%.1f\", ($twice - $once) / $rounds }")
verdict=$(awk "BEGIN { if ($pooled > $over_pooled) print \"over\" }")
printf 'pooled   %14s instructions a pair %s\n' "$pooled" "$verdict"
[ -z "$verdict" ] || failed=1

if [ $failed -ne 0 ]; then
    echo "preload_budget: more than $over_percent %, $over_pair instructions a pair, $over_pooled a pooled one or $over_start at the start" >&2
    exit 1
fi
