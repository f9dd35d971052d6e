#!/usr/bin/env bash
# What QEMU keeps beside the disks: OVMF's variables, the state of a TPM, and snapshots with their backing files.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
# The firmware starts without an operating system; under emulation it takes a while to write its variables.
firmware_seconds=90

# first FILE...: the first of them that is there. Distributions name the same firmware differently.
first() {
    local file
    for file in "$@"; do
        [[ ! -r $file ]] || { echo "$file" && return; }
    done
    fail "none of these is there: $*"
}
code=$(first /usr/share/OVMF/OVMF_CODE_4M.fd /usr/share/OVMF/OVMF_CODE.fd)
vars=$(first "${code/CODE/VARS}")

make_vm
start_mount "$vm" "$mnt"

# --- OVMF and a TPM

# check_variables FILE: the store's headers are whole, and so is every variable's.
check_variables() {
    /usr/bin/python3 - "$1" <<'END'
import struct, sys, uuid
data = open(sys.argv[1], "rb").read()
assert data[40:44] == b"_FVH", "no firmware volume"
length, header = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 48)[0]
assert sum(struct.unpack_from(f"<{header // 2}H", data)) & 0xffff == 0, "the volume header's checksum is wrong"
assert length <= len(data), "the volume is longer than the file"
assert uuid.UUID(bytes_le=data[header:header + 16]) == uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792"), "no variables"
size, form, state = struct.unpack_from("<IBB", data, header + 16)
assert (form, state) == (0x5A, 0xFE), f"format {form:x}, state {state:x}: not a healthy store"
at, end, names = header + 28, header + size, set()
while at + 60 <= end and data[at:at + 2] == b"\xaa\x55":
    state, (name_len, data_len) = data[at + 2], struct.unpack_from("<II", data, at + 36)
    assert at + 60 + name_len + data_len <= end, "a variable reaches behind the store"
    if state == 0x3F:
        names.add(data[at + 60:at + 60 + name_len].decode("utf-16-le").rstrip("\0"))
    at = (at + 60 + name_len + data_len + 3) & ~3
assert all(byte == 0xFF for byte in data[at:end]), "something lies behind the last variable"
print(len(names), "variables")
END
}

cp "$vars" "$mnt/nvram.fd"
mkdir "$mnt/tpm"

# boot first|second: starts firmware and TPM on what the home has, until the firmware finds nothing to boot.
boot() {
    local before tries tpm qemu
    before=$(sha256sum <"$mnt/nvram.fd")
    rm -f "$mnt/serial.log"
    swtpm socket --tpm2 --tpmstate "dir=$mnt/tpm" --ctrl "type=unixio,path=$work/tpm.sock" --flags startup-clear \
        --log "file=$mnt/tpm/log,level=5" >"$work/swtpm.out" 2>&1 &
    tpm=$!
    helpers+=("$tpm")
    for ((tries = 0; tries < 100; tries++)); do
        [[ ! -S $work/tpm.sock ]] || break
        sleep 0.1
    done
    [[ -S $work/tpm.sock ]] || fail "swtpm did not start: $(cat "$work/swtpm.out")"
    qemu-system-x86_64 -accel tcg -machine q35 -m 256 -nodefaults -display none -net none -monitor none \
        -drive "if=pflash,format=raw,unit=0,readonly=on,file=$code" \
        -drive "if=pflash,format=raw,unit=1,file=$mnt/nvram.fd" \
        -chardev "socket,id=tpm,path=$work/tpm.sock" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0 \
        -serial "file:$mnt/serial.log" >"$work/qemu.out" 2>&1 &
    qemu=$!
    helpers+=("$qemu")
    for ((tries = 0; tries < firmware_seconds * 10; tries++)); do
        kill -0 "$qemu" 2>/dev/null || fail "QEMU ended: $(cat "$work/qemu.out")"
        # What the firmware says last: it looks for something to boot, and finds its shell or nothing.
        ! grep -q -a -E 'BdsDxe: (starting|No bootable|failed to load)|UEFI Interactive Shell|Shell>' "$mnt/serial.log" 2>/dev/null || break
        sleep 0.1
    done
    ((tries < firmware_seconds * 10)) || fail "the firmware did not get to its end: $(tail -c 500 "$mnt/serial.log")"
    sleep 1
    kill "$qemu"
    wait "$qemu" || true
    wait "$tpm" || fail "swtpm failed: $(cat "$work/swtpm.out" "$mnt/tpm/log")"
    [[ $1 != first || $(sha256sum <"$mnt/nvram.fd") != "$before" ]] || fail "the firmware wrote no variable"
    check_variables "$mnt/nvram.fd"
}

step "OVMF writes its variables, and its TPM its state, into the home"
boot first
[[ -s $mnt/tpm/tpm2-00.permall ]] || fail "the TPM has no state: $(ls "$mnt/tpm")"

step "after a remount both start from there"
stop_mount "$mnt"
start_mount "$vm" "$mnt"
boot second

step "swtpm_setup makes a TPM with certificates' keys in the home"
mkdir "$mnt/tpm2"
# Without certificates: those would need an authority in this machine's configuration.
swtpm_setup --tpm2 --tpm-state "$mnt/tpm2" --createek --overwrite >"$work/setup.out" 2>&1 || fail "swtpm_setup: $(cat "$work/setup.out")"
[[ -s $mnt/tpm2/tpm2-00.permall ]] || fail "swtpm_setup left no state"

# --- snapshots side by side

step "qemu-img: a chain of snapshots, each file beside the other"
# Under names of disks, and under others, whose first bytes make them disks.
for suffix in qcow2 snapshot; do
    (
        cd "$mnt"
        qemu-img create -q -f qcow2 "base.$suffix" 64M
        qemu-io -f qcow2 -c 'write -q -P 1 0 4M' "base.$suffix"
        qemu-img create -q -f qcow2 -b "./base.$suffix" -F qcow2 "top.$suffix"
        qemu-io -f qcow2 -c 'write -q -P 2 1M 1M' "top.$suffix"
        [[ $(qemu-img info --output=json --backing-chain "top.$suffix" | grep -c '"virtual-size": 67108864') -eq 2 ]] ||
            fail "no chain of two"
    )
    read_back() {
        qemu-io -f qcow2 -c 'read -P 1 0 1M' -c 'read -P 2 1M 1M' -c 'read -P 1 2M 2M' -c 'read -P 0 4M 60M' "$1" >"$work/io.out"
        ! grep -i 'verification failed' "$work/io.out" || fail "$1"
    }
    read_back "$mnt/top.$suffix"
    stop_mount "$mnt"
    start_mount "$vm" "$mnt"
    read_back "$mnt/top.$suffix"
    qemu-img commit -q -f qcow2 "$mnt/top.$suffix"
    read_back "$mnt/base.$suffix"
    for file in base top; do qemu-img check -q -f qcow2 "$mnt/$file.$suffix"; done
    qemu-img snapshot -c before "$mnt/base.$suffix"
    qemu-img check -q -f qcow2 "$mnt/base.$suffix"
done

step "nothing of it shows beneath"
# The end of the GUID that a volume of variables begins with: four bytes, as its signature has, come up in ciphertext now and then.
volume=$'\'G\a[OP'
for text in BdsDxe "$volume" ./base.snapshot; do # as the reference says; the list of disks has the name alone
    [[ $(occurrences "$text" "$vm") -eq 0 ]] || fail "'$text' shows in the backing folder"
done
[[ $(occurrences "$volume" "$mnt") -gt 0 ]] || fail "the variables cannot be found in the mount either: the check above proves nothing"
stop_mount "$mnt"
vmc check "$vm"
