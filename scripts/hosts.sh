# Sourced by the demo of clusters, and by tests: hosts with networks of their own on this machine, and an etcd that they reach.
#
# The caller makes the folder `site`, in which each host has a folder of its name, and calls end_hosts at the end.
# shellcheck shell=bash

site=${site:-}
declare -A holder=() address=()
processes=()
namespaces=(--net --uts)

# Whether this machine allows networks of their own.
networks_are_allowed() {
    unshare --net true 2>/dev/null
}

# on HOST COMMAND...: runs a command on a host.
on() {
    local name=$1
    shift
    nsenter --target "${holder[$name]}" "${namespaces[@]}" -- env PATH="$site/$name/bin:$PATH" "$@"
}

# start_on HOST LOG COMMAND...: starts what runs until the end, and puts its pid into `started`.
start_on() {
    local name=$1 log=$2
    shift 2
    nsenter --target "${holder[$name]}" "${namespaces[@]}" -- "$@" </dev/null >"$log" 2>&1 &
    started=$!
    processes=("$started" "${processes[@]}")
}

# await SECONDS WHAT COMMAND...: waits until a command succeeds.
await() {
    local left=$(($1 * 10)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [[ $left -gt 0 ]] || { echo "This did not happen in time: $what." >&2; return 1; }
        sleep 0.1
    done
}

start_holder() {
    unshare "${namespaces[@]}" sleep infinity &
    holder[$1]=$!
    # The pid is that of unshare until it has made the namespaces.
    await 10 "a host begins" grep -q -a -x sleep "/proc/$!/comm"
}

# start_hosts NAME...: hosts, and a switch between them. Where a machine allows no networks, only their names are their own.
start_hosts() {
    local name number=10
    networks_are_allowed || namespaces=(--uts)
    for name in switch "$@"; do
        start_holder "$name"
        address[$name]=127.0.0.1
    done
    [[ ${#namespaces[@]} -eq 2 ]] || return 0
    address[switch]=10.77.0.1
    on switch sh -c 'ip link set lo up && ip link add bridge0 type bridge && ip address add 10.77.0.1/24 dev bridge0 && ip link set bridge0 up'
    for name in "$@"; do
        number=$((number + 1))
        address[$name]=10.77.0.$number
        on switch ip link add "$name" type veth peer name eth0 netns "${holder[$name]}"
        on switch ip link set "$name" master bridge0 up
        on "$name" sh -c "ip link set lo up && ip address add ${address[$name]}/24 dev eth0 && ip link set eth0 up"
    done
}

make_certificate() {
    local etcd=$site/etcd
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$etcd/$1.key" -out "$etcd/$1.csr" -subj "/CN=$1" 2>/dev/null
    openssl x509 -req -in "$etcd/$1.csr" -CA "$etcd/ca.pem" -CAkey "$etcd/ca.key" -CAcreateserial -out "$etcd/$1.pem" -days 30 \
        -extfile "$etcd/extensions" 2>/dev/null
}

# start_etcd MEMBERS HOST...: an etcd on the switch, with certificates for these hosts. Puts its addresses into `all_urls`.
start_etcd() {
    local member name client peer count=$1 etcd=$site/etcd
    local -a urls=() peers=()
    shift
    mkdir "$etcd"
    echo "subjectAltName=IP:${address[switch]}" >"$etcd/extensions"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$etcd/ca.key" -out "$etcd/ca.pem" -days 30 \
        -subj /CN=ca 2>/dev/null
    for name in member "$@"; do make_certificate "$name"; done
    for ((member = 1; member <= count; member++)); do
        urls+=("https://${address[switch]}:2${member}379")
        peers+=("m$member=https://${address[switch]}:2${member}380")
    done
    # shellcheck disable=SC2034 # for the caller
    all_urls=$(IFS=, && echo "${urls[*]}")
    for ((member = 1; member <= count; member++)); do
        client=${urls[member - 1]} peer=${peers[member - 1]#*=}
        start_on switch "$etcd/m$member.log" etcd --name "m$member" --data-dir "$etcd/m$member" \
            --initial-cluster "$(IFS=, && echo "${peers[*]}")" --listen-client-urls "$client" --advertise-client-urls "$client" \
            --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --logger zap --log-level error \
            --client-cert-auth --trusted-ca-file "$etcd/ca.pem" --cert-file "$etcd/member.pem" --key-file "$etcd/member.key" \
            --peer-client-cert-auth --peer-trusted-ca-file "$etcd/ca.pem" --peer-cert-file "$etcd/member.pem" \
            --peer-key-file "$etcd/member.key"
    done
}

# start_agent HOST [LINE...]: its configuration, with these further lines, its program of that configuration, and its agent.
start_agent() {
    local name=$1
    shift
    mkdir -p "$site/$name/bin" "$site/$name/vms"
    (umask 077 && cat >"$site/$name/config.toml" <<EOF
[events]
file = "$site/$name/events.jsonl"
journal = false

[board]
ca = "$site/etcd/ca.pem"
cert = "$site/etcd/$name.pem"
key = "$site/etcd/$name.key"

$(printf '%s\n' "$@")
EOF
    )
    # So that commands look as they do on a host, where the configuration is in /etc/vmcryptfs and keys are in /var/lib/vmcryptfs.
    printf '#!/bin/sh\nexec %q --config %q "$@"\n' "$VMCRYPTFS" "$site/$name/config.toml" >"$site/$name/bin/vmcryptfs"
    chmod +x "$site/$name/bin/vmcryptfs"
    start_on "$name" "$site/$name/agent.log" "$(dirname "$VMCRYPTFS")/vmcryptfs-agent" --config "$site/$name/config.toml"
    await 20 "the agent of $name listens" test -S "$site/$name/agent.sock"
}

# Ends what was started. Networks go with the last process in them.
end_hosts() {
    local pid
    for pid in "${processes[@]}" "${holder[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done
    processes=() holder=()
}
