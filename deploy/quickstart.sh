#!/bin/sh
# From a fresh Debian 12 to an answer: installs, builds, brings a small real chat model, starts a
# coordinator and two worker processes with the layers split between them over UCX, asks a question,
# shows the cluster, and leaves it running.
#
#   deploy/quickstart.sh           start (or reuse) and ask
#   deploy/quickstart.sh --once    the same, then stop it
#   deploy/quickstart.sh --stop    stop what is running
#   PORT=30000                     where the API listens, on loopback
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
port=${PORT:-30000}
url=http://127.0.0.1:$port
run=$here/build/run
log=$run/serve.log
mkdir -p build
chmod 755 build
say() { printf '\n== %s\n' "$*"; }

pid_alive() {
    [ -f "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null &&
        grep -q trireme "/proc/$(cat "$run/pid")/comm" 2>/dev/null
}
stop() {
    if pid_alive; then
        pid=$(cat "$run/pid")
        echo "stopping the cluster (pid $pid)"
        kill "$pid"
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$run/pid"
}
ready() { python3 - "$url" <<'PY'
import sys, urllib.request
try:
    sys.exit(0 if urllib.request.urlopen(sys.argv[1] + "/readyz", timeout=2).status == 200 else 1)
except Exception:
    sys.exit(1)
PY
}

once=no
case ${1:-} in
--once) once=yes ;;
--stop) stop; exit 0 ;;
"") ;;
*) echo "usage: quickstart.sh [--once|--stop]" >&2; exit 2 ;;
esac

say "1/5 packages"
deploy/install.sh build
echo "all there"

say "2/5 build"
[ -f build/build.ninja ] || cmake -S . -B build -G Ninja >build/configure.log ||
    { cat build/configure.log >&2; exit 70; }
cmake --build build --target trireme

say "3/5 model"
model=$(deploy/models.sh smollm2 build/models)
echo "$model"

say "4/5 cluster: a coordinator and two workers, layers split over UCX"
if pid_alive && ready; then
    echo "already running (pid $(cat "$run/pid")), reusing it"
else
    stop
    mkdir -p "$run"
    chmod 700 "$run"
    setsid build/trireme serve "$model" --listen "127.0.0.1:$port" --workers 2 --state "$run/state" \
        </dev/null >"$log" 2>&1 &
    echo $! >"$run/pid"
    printf 'loading'
    n=0
    until ready; do
        if ! pid_alive; then
            echo; echo "the server ended; its last lines:" >&2
            tail -n 5 "$log" >&2
            rm -f "$run/pid"
            exit 70
        fi
        n=$((n + 1))
        if [ $n -gt 600 ]; then
            echo; echo "not ready after 2 minutes; see $log" >&2
            exit 75
        fi
        printf '.'
        sleep 0.2
    done
    echo ' ready'
fi

say "5/5 a question"
question="What is the capital of Japan? Answer in one sentence."
echo "you: $question"
printf 'model: '
build/trireme chat "$question" --url "$url" --greedy --max-tokens 120
echo
build/trireme status --url "$url"

if [ $once = yes ]; then
    echo
    stop
else
    cat <<EOF

It is running: $url/v1 is an OpenAI-compatible API (no key needed on loopback).
  talk:    build/trireme chat --url $url
  watch:   build/trireme status --watch --url $url
  stop:    deploy/quickstart.sh --stop        log: $log
EOF
fi
