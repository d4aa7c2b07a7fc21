# Sourced by scripts/test and scripts/demo, which set ROOT: finds a Python, makes the environment and keeps it
# while neither the Python nor the requirement files change.

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 4; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
        [ "$candidate" != "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not Python 3.11 or later"
    done
    die "no Python 3.11 or later found; install one, or name it: PYTHON=/path/to/python3 $0"
}

fingerprint() {
    "$1" -c '
import hashlib, pathlib, sys
digest = hashlib.sha256(repr((sys.version, sys.base_prefix, pathlib.Path.cwd())).encode())
for path in sys.argv[1:]:
    digest.update(pathlib.Path(path).read_bytes())
print(digest.hexdigest())' "${@:2}"
}

install() {
    local pip=("$VENV/bin/python" -m pip --disable-pip-version-check install)
    "${pip[@]}" --constraint constraints.txt --editable ".[$1]" || die "pip could not install the dependencies (see above)"
    [ "$1" = test ] || return 0
    # Stock merkletools is the peer that exported proofs must satisfy. Its one requirement does not compile on
    # Python 3.11 and later and is not needed there.
    "${pip[@]}" --no-deps merkletools==1.0.3 || die "pip could not install merkletools (see above)"
    # Carries axe-core, which looks at pages for what keeps people from reading them. It requires a browser driver that
    # nothing here uses.
    "${pip[@]}" --no-deps axe-playwright-python==0.1.8 || die "pip could not install axe-playwright-python (see above)"
}

# make_environment EXTRA: puts an environment with polledger (editable) and its EXTRA, in the pinned versions, on PATH.
# The extra "test" contains the extra "examples".
make_environment() {
    local base python_now wanted
    VENV=${POLLEDGER_VENV:-$ROOT/.venv}
    base=$(find_python)
    python_now=$(fingerprint "$base")
    wanted=$(fingerprint "$base" pyproject.toml constraints.txt scripts/environment.sh)
    if [ "$(cat "$VENV/.polledger-python" 2> /dev/null)" != "$python_now" ]; then
        [ ! -e "$VENV" ] || [ -e "$VENV/.polledger-python" ] || [ -z "${POLLEDGER_VENV:-}" ] ||
            die "$VENV exists and was not made by this script"
        say "making the environment $VENV with $("$base" --version)"
        "$base" -m venv --clear "$VENV" ||
            die "$base cannot make a virtual environment (on Debian: apt-get install python3-venv)"
        printf '%s' "$python_now" > "$VENV/.polledger-python"
    fi
    if [ "$(cat "$VENV/.polledger-$1" 2> /dev/null)" = "$wanted" ]; then
        say "the environment $VENV is up to date"
    else
        say "installing the dependencies (a few minutes the first time)"
        install "$1"
        [ "$1" != test ] || printf '%s' "$wanted" > "$VENV/.polledger-examples"
        printf '%s' "$wanted" > "$VENV/.polledger-$1"
    fi
    export PATH=$VENV/bin:$PATH VIRTUAL_ENV=$VENV
    unset PYTHONHOME PYTHONPATH
}

# need_command NAME WHY: the tests need it; where nobody is there to install it, it is installed.
need_command() {
    ! command -v "$1" > /dev/null 2>&1 || return 0
    if [ "$(id -u)" = 0 ] && [ -n "${CI:-}" ] && command -v apt-get > /dev/null 2>&1; then
        say "installing $1, $2"
        apt-get update -qq && apt-get install -y -qq "$1" || die "apt-get could not install $1"
        return 0
    fi
    die "the tests need the $1 command, $2 (on Debian: apt-get install $1)"
}
