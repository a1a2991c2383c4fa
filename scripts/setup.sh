# Sourced by demo and test: makes .venv where there is none, and installs the package into it.

# Prints the first Python that can make the environment, or says in one line what is wrong.
find_python() {
    local candidate found="" blocked=""
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        found=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue
        if ! "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
            blocked=${blocked:-"$candidate is Python $found, but 3.10 to 3.13 is needed; install one of those"}
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            blocked="$candidate has no venv module; install it (on Debian and Ubuntu: apt install python3-venv)"
        else
            echo "$candidate"
            return
        fi
    done
    echo "setup: ${blocked:-no Python found; install Python 3.10 to 3.13}" >&2
    return 1
}

# prepare EXTRAS: the package in place with these extras ("" or "dev"), unless that is already done.
prepare() {
    local extras=$1 python log stamp=.venv/signsclf-installed state
    # A copied or moved folder has an environment that points elsewhere, so the place is part of the state.
    state="$(cksum <pyproject.toml) $PWD"
    if [ -x .venv/bin/python ] && { grep -qsxF "$state dev" $stamp || grep -qsxF "$state $extras" $stamp; }; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "making .venv with $python" >&2
        "$python" -m venv .venv
    fi
    echo "installing into .venv; the first time this fetches some gigabytes and takes minutes" >&2
    log=.venv/signsclf-install.log
    if ! .venv/bin/python -m pip install --disable-pip-version-check -e ".${extras:+[$extras]}" >$log 2>&1; then
        tail -n 15 $log >&2
        echo "setup: the install failed; all that pip said is in $log" >&2
        return 1
    fi
    echo "$state $extras" >$stamp
}
