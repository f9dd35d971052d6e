#!/usr/bin/env bash
# The KMIP provider against Cosmian KMS, a second real key server: unlike PyKMIP it keeps custom attributes, speaks KMIP 2.1
# and TLS 1.3, and does not give out deactivated keys.
#
#     KMS_BINARY    its cosmian_kms (built from the crate registry if not given: eight minutes and 2 GB, once)
#     KMS_BUILD     folder for that (~/.cache/vmcryptfs-soak)
#
# Cosmian KMS is under the Business Source License: a tool of this test, and never a dependency.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/../mounts.sh"
# shellcheck source=scripts/requirements.sh
source "$scripts/requirements.sh"

version=5.28.0
build=${KMS_BUILD:-${XDG_CACHE_HOME:-$HOME/.cache}/vmcryptfs-soak}
port=15697 http=19998

build_kms() {
    local source=$build/cosmian_kms_server-$version
    KMS_BINARY=$build/target/debug/cosmian_kms
    [[ ! -x $KMS_BINARY ]] || return 0
    require_rust
    require_tools 'cc|gcc libc6-dev|compiles its C parts' 'file:/usr/include/openssl/ssl.h|libssl-dev|it links OpenSSL' \
        'pkg-config|pkg-config|finds OpenSSL'
    step "building Cosmian KMS $version"
    mkdir -p "$build"
    (cd "$build" && cargo info "cosmian_kms_server@$version" >/dev/null)
    rm -rf "$source"
    cp -r "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cosmian_kms_server-$version "$source"
    # Debian has no FIPS module, and the feature that does without names a dependency of its tests.
    sed -i '/"cosmian_kms_client_utils\/non-fips",/d' "$source/Cargo.toml"
    rm -f "$source/Cargo.toml.orig"
    (cd "$source" && CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$build/target cargo build --locked --quiet \
        --bin cosmian_kms --features non-fips)
}

# certificate NAME USAGE...: a key and a certificate of the test's authority.
certificate() {
    local name=$1
    shift
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$work/$name.key"
    openssl req -new -key "$work/$name.key" -subj "/CN=$name" -out "$work/$name.csr"
    printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\n%s\n' "$*" >"$work/$name.ext"
    openssl x509 -req -in "$work/$name.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -sha256 -days 30 \
        -extfile "$work/$name.ext" -out "$work/$name.pem" 2>/dev/null
    chmod 600 "$work/$name.key"
    chmod go-w "$work/$name.pem"
}

start_kms() {
    (cd "$work" && exec "$KMS_BINARY" -c "$work/kms.toml" >>"$work/kms.log" 2>&1) &
    kms=$!
    helpers+=("$kms")
    for _ in {1..300}; do
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return 0
        kill -0 "$kms" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$work/kms.log" >&2
    fail "Cosmian KMS did not start"
}

stop_kms() {
    kill "$kms"
    wait "$kms" || true
}

[[ -n ${KMS_BINARY:-} ]] || build_kms

step "an authority, a server, a host"
openssl ecparam -name prime256v1 -genkey -noout -out "$work/ca.key"
openssl req -x509 -new -key "$work/ca.key" -sha256 -days 30 -subj /CN=test-ca -out "$work/ca.pem" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
chmod go-w "$work/ca.pem"
certificate server 'extendedKeyUsage=serverAuth' $'\nsubjectAltName=DNS:localhost,IP:127.0.0.1'
certificate host1 'extendedKeyUsage=clientAuth'
cat >"$work/kms.toml" <<END
default_username = "admin"
[db]
database_type = "sqlite"
sqlite_path = "$work/kms"
[tls]
tls_cert_file = "$work/server.pem"
tls_key_file = "$work/server.key"
clients_ca_cert_file = "$work/ca.pem"
[socket_server]
socket_server_start = true
socket_server_port = $port
socket_server_hostname = "127.0.0.1"
[http]
port = $http
hostname = "127.0.0.1"
END
start_kms

step "the provider, and all that it needs of the server"
vmc provider add kmip corp --server "127.0.0.1:$port" --ca "$work/ca.pem" --cert "$work/host1.pem" --key "$work/host1.key"
vmc provider test corp | tee "$work/tested"
grep -q -E 'custom attributes +kept' "$work/tested" || fail "the custom attributes were not kept"

step "VMs under keys of the server"
mkdir -p "$work/vms" "$work/mnt"
for name in web01 web02; do
    vmc create "$work/vms/$name"
    vmc create-disk "$work/vms/$name/root.raw" --size 8M
done
start_mount "$work/vms" "$work/mnt"
echo content | dd of="$work/mnt/web01/root.raw" conv=notrunc status=none
mkdir "$work/mnt/web03"
echo x >"$work/mnt/web03/new.raw"

step "the server is lost while mounted, and comes back"
stop_kms
head -c 7 "$work/mnt/web01/root.raw" | grep -q content || fail "what is open cannot be read without the server"
stop_mount "$work/mnt"
start_mount "$work/vms" "$work/mnt"
must_fail 'required key not available' cat "$work/mnt/web01/root.raw"
start_kms
for _ in {1..300}; do
    head -c 7 "$work/mnt/web01/root.raw" 2>/dev/null | grep -q content && break
    sleep 0.1
done
head -c 7 "$work/mnt/web01/root.raw" | grep -q content || fail "nothing was unlocked when the server came back"
stop_mount "$work/mnt"

step "a key is retired when its VM is gone"
key=$(vmc info --json "$work/vms/web02" | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["keys"][0]["key_id"])')
must_fail 'is needed by' vmc provider retire corp "$key" --datastore "$work/vms"
rm -r "$work/vms/web02"
vmc provider retire corp "$key" --datastore "$work/vms"
vmc provider retire corp "$key" --datastore "$work/vms" --destroy
stop_kms
echo "Cosmian KMS $version: all as expected"
