# Sourced by demos and tests: which processes they have started.
# shellcheck shell=bash

# Pids of processes with these words in their command line, which is readable even where a process is protected: what a demo or a test
# started has its folder there, and nobody else's.
processes_with() {
    local folder
    for folder in /proc/[0-9]*; do
        if tr '\0' ' ' 2>/dev/null <"$folder/cmdline" | grep -q -F -e "$1"; then
            echo "${folder#/proc/}"
        fi
    done
}
