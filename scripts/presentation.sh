# Sourced by the demos of this folder: steps, explanations and commands, as a person reads them in a terminal.
# shellcheck shell=bash

# What the last command said.
said=$(mktemp)

number=0
step() {
    number=$((number + 1))
    printf '\n\033[1m%s. %s\033[0m\n' "$number" "$*"
}
# Bold only where a person looks.
[[ -t 1 ]] || step() { number=$((number + 1)) && printf '\n%s. %s\n' "$number" "$*"; }

explain() {
    fold -s -w 110 <<<"$*" | sed -e 's/ *$//' -e 's/^/   /'
}

# Shows a command as one would type it, runs it, then shows what it said. Not through a pipe: a mount goes on in the
# background and may keep its end open.
run() {
    local status=0
    echo "   \$ $*"
    "$@" </dev/null >"$said" 2>&1 || status=$?
    sed 's/^/     /' "$said"
    return "$status"
}

# The same for what takes its time: output comes as it is made.
run_live() {
    echo "   \$ $*"
    "$@" </dev/null 2>&1 | sed -u 's/^/     /'
}

# shellcheck source=scripts/processes.sh
source "$(dirname "${BASH_SOURCE[0]}")/processes.sh"
