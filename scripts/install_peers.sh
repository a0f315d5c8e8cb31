#!/bin/sh
# Gets the allocators that the pool is measured against into build/peers/lib. Needs no root and
# changes nothing outside build/. A peer that cannot be had is named, with the reason, in
# build/peers/missing, which benches/pool/run.py reads; the exit status is 0 all the same.
#
#   cargo     mimalloc 3, rpmalloc, snmalloc, VMA: benches/peers, versions pinned there; mimalloc
#             also by cc, as a library for LD_PRELOAD
#   apt-get   jemalloc, tcmalloc, hwloc and oneTBB's malloc (for UMF): Debian 12's packages,
#             unpacked, not installed
#   pip       UMF's wheel, unpacked
set -u
cd "$(dirname "$0")/.." || exit 1
peers=$PWD/build/peers
lib=$peers/lib
log=$peers/log
mkdir -p "$lib" "$peers/unpacked"
: >"$peers/missing"
: >"$log"

missing() { # names... reason
    reason=$1
    shift
    for name in "$@"; do
        printf '%s\t%s\n' "$name" "$reason" >>"$peers/missing"
        echo "install_peers: no $name: $reason (see build/peers/log)" >&2
    done
}

# NDEBUG: the build scripts leave it to the caller, and a peer is measured without its assertions.
if [ ! -e "$lib/libpeers.so" ] ||
    [ -n "$(find benches/peers -newer "$lib/libpeers.so" -type f -not -path '*/target/*')" ]; then
    if CFLAGS=-DNDEBUG CXXFLAGS=-DNDEBUG CARGO_TARGET_DIR=$peers/target \
        cargo build --release --locked --manifest-path benches/peers/Cargo.toml >>"$log" 2>&1; then
        cp "$peers/target/release/libpeers.so" "$lib/libpeers.so"
    else
        missing "cargo could not build benches/peers" mimalloc rpmalloc snmalloc vma
    fi
fi

# As a library for LD_PRELOAD, from the sources that benches/peers pins.
if [ ! -e "$lib/libmimalloc.so" ]; then
    sources=$(cargo metadata --locked --format-version 1 --manifest-path benches/peers/Cargo.toml 2>>"$log" |
        tr ',' '\n' | sed -n 's,.*"manifest_path":"\(.*/libmimalloc-sys[^/]*\)/Cargo.toml".*,\1,p' | head -n 1)
    sources=$sources/c_src/mimalloc/v3
    cc -O3 -DNDEBUG -DMI_MALLOC_OVERRIDE -fPIC -fno-builtin-malloc -ftls-model=initial-exec -shared \
        -I"$sources/include" -o "$lib/libmimalloc.so" "$sources/src/static.c" -lpthread >>"$log" 2>&1 ||
        missing "cc could not build mimalloc's sources" mimalloc_preload
fi

# debian NAME PACKAGE=VERSION LIBRARY
debian() {
    [ -e "$lib/$3" ] && return 0
    if (cd "$peers/unpacked" && apt-get download "$2" && dpkg -x "${2%%=*}"_*.deb .) >>"$log" 2>&1; then
        cp -L "$(find "$peers/unpacked/usr/lib" -name "$3" | head -n 1)" "$lib/$3"
    else
        missing "apt-get could not download $2 (try apt-get update)" "$1"
        return 1
    fi
}
debian jemalloc libjemalloc2=5.3.0-1 libjemalloc.so.2
debian tcmalloc libtcmalloc-minimal4=2.10-1 libtcmalloc_minimal.so.4

if [ ! -e "$lib/libumf.so.1" ] && debian umf libhwloc15=2.9.0-1 libhwloc.so.15; then
    if python3 -m pip download --quiet --no-deps --dest "$peers/unpacked" umf==1.2.0 >>"$log" 2>&1 &&
        python3 -m zipfile -e "$peers/unpacked"/umf-1.2.0-*.whl "$peers/unpacked" >>"$log" 2>&1; then
        cp "$peers/unpacked/umf-1.2.0.data/data/lib/libumf.so.1" "$lib/"
    else
        missing "pip could not download umf 1.2.0" umf umf_scalable
    fi
fi
[ ! -e "$lib/libumf.so.1" ] ||
    debian umf_scalable libtbbmalloc2=2021.8.0-2+deb12u1 libtbbmalloc.so.2 || true
