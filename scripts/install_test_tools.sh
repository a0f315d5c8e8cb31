#!/bin/sh
# Sees to it that what `make test` calls is there: from apt-get where that is at hand and this is
# root, otherwise it says what to install.
set -eu

packages=
# need COMMAND PACKAGE
need() {
    command -v "$1" >/dev/null || packages="$packages $2"
}
need "${CC:-cc}" gcc
need "${CXX:-c++}" g++
need nm binutils
need pkg-config pkg-config
need valgrind valgrind
need python3 python3
need sqlite3 sqlite3
need setarch util-linux
# Reports are looked at in it, without a screen.
need chromium chromium

# What the checks of the source call; rustup has them where Rust came from it.
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt

[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$packages"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of words
    apt-get install -qq -y --no-install-recommends $packages >/dev/null ||
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages >/dev/null; }
else
    echo "make test needs these packages (Debian's names), please install them:$packages" >&2
    exit 1
fi
