#!/usr/bin/env bash
# Says what the environment holds, with tools in an environment of their own whose files
# are compared with launchers/locks/tools.txt.
#
#   launchers/inspect.sh sbom [FILE]   a CycloneDX list of all Python packages (sbom.json)
#   launchers/inspect.sh audit         those that have known vulnerabilities; exit code 1
#                                      where there are any, 2 where nothing could be asked
#
#   VENV           the environment                     (.venv beside the Makefile)
#   DATHVD_CACHE   where the tools are kept            (~/.cache/dathvd)
#   AUDIT_SERVICE  the database: pypi | osv            (pypi)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${VENV:-$root/.venv}/bin/python
cache=${DATHVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dathvd}
lock=$root/launchers/locks/tools.txt

fail() { printf 'inspect: %s\n' "$*" >&2; exit 2; }

# Sets the variable tools to an environment that holds what the lock file says.
make_tools() {
    local key
    key=$({ cat "$lock" && "$python" --version; } | sha256sum | cut -c 1-16)
    tools=$cache/tools-$key
    [ ! -e "$tools/complete" ] || return 0
    rm -rf "$tools"
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip --disable-pip-version-check --no-input install -q \
        --no-deps --only-binary :all: --require-hashes -r "$lock" ||
        fail "the tools of $lock could not be installed (see above)"
    touch "$tools/complete"
}

[ -x "$python" ] || fail "no environment at ${python%/bin/python}; make setup makes one"
case ${1:-} in
sbom)
    make_tools
    "$tools/bin/cyclonedx-py" environment --output-reproducible --of JSON \
        -o "${2:-sbom.json}" "$python"
    echo "inspect: wrote ${2:-sbom.json}"
    ;;
audit)
    make_tools
    # a build of torch has its version's vulnerabilities: the part after + is left out
    "$python" -m pip --disable-pip-version-check list --format=freeze --exclude-editable |
        grep -v '^dathvd==' | sed 's/+.*//' |
        "$tools/bin/python" "$root/launchers/audit.py" "$tools/bin/pip-audit" \
            --vulnerability-service "${AUDIT_SERVICE:-pypi}"
    ;;
*) fail "expected sbom or audit" ;;
esac
