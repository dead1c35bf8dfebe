#!/usr/bin/env bash
# Tries the oldest and the newest versions that requirements.txt allows, each in a new environment: the fast tests, a
# small run of the notebook, and a look-up of known vulnerabilities, which are counted but are no failure, as old
# versions always have some. Prints a table at the end; exits with 1 if anything failed.
# To be run by hand: bash tests/versions.sh
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools="$work/tools/bin"
python3 -m venv "$work/tools" && "$tools/pip" install --quiet uv pip-audit || exit 1
mkdir "$work/copy"
git ls-files -z | tar -c --null -T - | tar -x -C "$work/copy" || exit 1  # a copy: your own outputs/ stay as they are
cd "$work/copy" || exit 1

table="" failed=0
add() {
    table+=$(printf "%-8s %-8s %-10s %-7s %-7s %-7s %-34s %-9s %s" "$@")$'\n'
}

versions() {
    "$1" -c 'import platform
from importlib.metadata import version
print(platform.python_version(), *map(version, ("tensorflow", "keras", "numpy", "pillow")))'
}

paint() {  # without the cells that only teach, and with the network that needs no download
    "$1" -m nbconvert --to notebook --TagRemovePreprocessor.enabled=True \
        --TagRemovePreprocessor.remove_cell_tags=teaching --output picture.ipynb neural_style_transfer.ipynb &&
        "$1" -m papermill picture.ipynb out.ipynb -p IMAGE_SIZE 96 -p STEPS 2 -p MODEL vgg16
}

vulnerabilities() {  # where the service cannot be reached, pip-audit fails or skips every package
    local found="$1/audit.json"  # a file and no pipe, since pip-audit also exits with 1 where it finds some
    "$tools/pip-audit" --progress-spinner off -f json -o "$found" --path "$1"/lib/python*/site-packages 2>/dev/null
    "$tools/python" -c 'import json, sys
known = [package["vulns"] for package in json.load(sys.stdin)["dependencies"] if "vulns" in package]
print(sum(map(len, known)) if known else sys.exit(1))' 2>/dev/null <"$found"
}

try() {  # a version of Python; oldest or newest
    local environment="$work/$1-$2" resolution=highest notebook=ok tests count found
    local python="$environment/bin/python"
    [ "$2" = oldest ] && resolution=lowest-direct
    echo "--- Python $1, $2 versions"
    if ! "$tools/uv" venv --quiet --python "$1" "$environment"; then
        add "$1" "$2" "not available"
        return
    fi
    if ! "$tools/uv" pip install --quiet --python "$python" --resolution "$resolution" -r requirements.txt; then
        add "$1" "$2" "could not be installed"
        failed=1
        return
    fi
    "$python" -m pytest -q -m "not slow" tests | tee "$work/tests.txt" || failed=1
    tests=$(tail -n 1 "$work/tests.txt" | grep -oE '[0-9]+ (passed|failed|skipped|error)' | paste -s -d , -)
    paint "$python" || { notebook=failed failed=1; }
    count=$(vulnerabilities "$environment") || count="not available"
    read -r -a found < <(versions "$python")
    add "${found[0]}" "$2" "${found[@]:1}" "${tests:-failed}" "$notebook" "$count"
    rm -rf "$environment"  # some 2 GB
}

add Python versions TensorFlow Keras NumPy Pillow tests notebook vulnerabilities
try 3.10 oldest
try 3.13 newest
own=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $own in 3.10 | 3.13) ;; *) try "$own" newest ;; esac
printf "\n%s" "$table"
exit "$failed"
