#!/usr/bin/env bash
# Two hosts and an etcd, each with a network of its own. One host loses its link: it keeps its key for `max-offline`, then forgets it, and
# has it again with the link. The other host notices nothing.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
# shellcheck source=scripts/hosts.sh
source "$scripts/hosts.sh"

if [[ $(id -u) -ne 0 ]] || ! networks_are_allowed; then
    echo "networks of their own are not allowed here"
    exit 77
fi
for tool in ip etcd openssl nsenter "$(dirname "$VMCRYPTFS")/vmcryptfs-agent"; do
    command -v "$tool" >/dev/null || { echo "there is no $tool"; exit 77; }
done

site=$work/site
mkdir "$site"
end_all() {
    local status=$?
    set +e
    end_hosts
    (exit "$status")
    clean_up
}
trap end_all EXIT

step "two hosts share a provider"
start_hosts h1 h2
start_etcd 1 h1 h2
start_agent h1
start_agent h2 '[agent]' 'max-offline = "6s"'
head -c 12 /dev/urandom | base64 >"$site/passphrase"
admin=(--admin-key "$site/admin.key" --passphrase-file "$site/passphrase")
await 20 "etcd answers" on h1 vmcryptfs cluster init prod --name h1 --board "etcd:$all_urls" "${admin[@]}"
on h1 vmcryptfs provider add native shared >/dev/null 2>&1
on h1 vmcryptfs cluster share shared "${admin[@]}" >/dev/null 2>&1
on h1 vmcryptfs cluster token "${admin[@]}" >"$site/token" 2>/dev/null
on h2 vmcryptfs cluster join --token-file "$site/token" --name h2 >/dev/null 2>&1
on h1 vmcryptfs cluster approve h2 "${admin[@]}" >/dev/null 2>&1
on h1 vmcryptfs create "$site/web01" >/dev/null 2>&1
opens() {
    on "$1" vmcryptfs check "$site/web01"
}
closed() {
    ! opens "$1"
}
await 20 "h2 has the key" opens h2

step "the link of h2 is down"
on switch ip link set h2 down
started=$SECONDS
sleep 2
opens h2 >/dev/null 2>&1 || fail "h2 lost its key after $((SECONDS - started)) s, before max-offline"
await 15 "h2 forgets its key" closed h2
[[ $((SECONDS - started)) -ge 5 ]] || fail "after $((SECONDS - started)) s only"
opens h1 >/dev/null || fail "h1 has the board, and not its key"
grep -q 'longer than max-offline' "$site/h2/events.jsonl" || fail "h2 does not say why"
[[ ! -s $site/h2/host/envelopes.json ]] || ! grep -q envelope\" "$site/h2/host/envelopes.json" || fail "an envelope is left on disk"

step "the link of h2 is up"
on switch ip link set h2 up
await 20 "h2 has its key again" opens h2
