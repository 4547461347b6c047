#!/bin/sh
# Installs the Debian packages Trireme needs: deploy/install.sh build [test]. Only what is missing is
# asked for; as a user it goes through sudo, and says so if there is none.
set -eu
build="gcc cmake ninja-build pkg-config libc6-dev
    libucx-dev libprotobuf-c-dev protobuf-c-compiler libmicrohttpd-dev libgnutls28-dev libuv1-dev
    libjansson-dev libpcre2-dev libutf8proc-dev libhwloc-dev libcyaml-dev libyaml-dev libcurl4-gnutls-dev
    python3 python3-pip ca-certificates"
test="g++ clang clang-format libclang-rt-14-dev libcmocka-dev python3-venv iproute2 nftables
    qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross procps curl valgrind"

wanted=""
for set in "$@"; do
    case $set in
    build) wanted="$wanted $build" ;;
    test) wanted="$wanted $test" ;;
    *) echo "install.sh: unknown set $set (build, test)" >&2; exit 2 ;;
    esac
done
if ! command -v apt-get >/dev/null; then
    echo "install.sh: this script knows Debian's apt only; install these by hand:" $wanted >&2
    exit 69
fi
missing=""
for p in $wanted; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
as_root=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install.sh: not root, and sudo is not installed. As root, run: apt-get install$missing" >&2
        exit 77
    fi
    as_root="sudo"
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update
# shellcheck disable=SC2086
$as_root apt-get install -y --no-install-recommends $missing
