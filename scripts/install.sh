#!/bin/sh
# Installs what was built: scripts/install.sh LIBRARIES PREFIX LIBDIR DESTDIR
#
#   LIBRARIES   the folder with libforebay.so, libforebay.a and libforebay_preload.so
#   PREFIX      where the files will be used; LIBDIR lies in it
#   DESTDIR     put in front of every path that is written, for packages; may be empty
set -eu
cd "$(dirname "$0")/.."
if [ $# != 4 ]; then
    echo "usage: scripts/install.sh LIBRARIES PREFIX LIBDIR DESTDIR" >&2
    exit 2
fi
libraries=$1
prefix=$2
libdir=$3
destdir=$4
case $prefix in
/*) ;;
*) echo "install: PREFIX is '$prefix'; it must be an absolute path" >&2 && exit 2 ;;
esac
case $libdir in
"$prefix"/*) ;;
*) echo "install: LIBDIR is '$libdir'; it must lie in PREFIX, '$prefix'" >&2 && exit 2 ;;
esac

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
soname=libforebay.so.${version%%.*}
# From the folder of forebay-config.cmake back to PREFIX, so that the tree can be moved.
up=$(echo "${libdir#"$prefix"/}/cmake/forebay" | sed 's,[^/][^/]*,..,g')

install -d "$destdir$prefix/include" "$destdir$libdir/pkgconfig" "$destdir$libdir/cmake/forebay"
install -m 644 include/forebay.h include/forebay.hpp "$destdir$prefix/include"
install -m 644 "$libraries/libforebay.a" "$destdir$libdir/libforebay.a"
install -m 755 "$libraries/libforebay.so" "$destdir$libdir/libforebay.so.$version"
# By its path, in LD_PRELOAD; it finds libforebay beside itself.
install -m 755 "$libraries/libforebay_preload.so" "$destdir$libdir/libforebay_preload.so"
ln -sf "libforebay.so.$version" "$destdir$libdir/$soname"
ln -sf "$soname" "$destdir$libdir/libforebay.so"

# fill TEMPLATE TARGET
fill() {
    sed -e "s,@PREFIX@,$prefix,g" -e "s,@LIBDIR@,$libdir,g" -e "s,@UP@,$up,g" \
        -e "s,@LIBSUBDIR@,${libdir#"$prefix"/},g" -e "s,@VERSION@,$version,g" \
        -e "s,@SONAME@,$soname,g" "$1" >"$2"
    chmod 644 "$2"
}
fill forebay.pc.in "$destdir$libdir/pkgconfig/forebay.pc"
fill cmake/forebay-config.cmake.in "$destdir$libdir/cmake/forebay/forebay-config.cmake"
fill cmake/forebay-config-version.cmake.in \
    "$destdir$libdir/cmake/forebay/forebay-config-version.cmake"
echo "installed forebay $version in $destdir$prefix"
