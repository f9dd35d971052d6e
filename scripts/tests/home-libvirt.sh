#!/usr/bin/env bash
# libvirt runs a guest whose domain XML, disk and serial log are all in the mount. It uses libvirt's QEMU driver within one
# process, so that no daemon of the machine is asked or changed.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
guest_seconds=120

[[ $(id -u) -eq 0 ]] || { echo "libvirt's user cannot be chosen without root"; exit 77; }

make_vm
vmc create-disk "$vm/root.raw" --size 16M
start_mount "$vm" "$mnt"

step "a disk that says so when it boots"
# A boot sector that writes "DISK" to the first serial port and halts.
/usr/bin/python3 - "$mnt/root.raw" <<'END'
import sys
code = bytes.fromhex("baf803") + b"".join(bytes((0xB0, letter, 0xEE)) for letter in b"DISK\n") + bytes.fromhex("fa f4 ebfd")
with open(sys.argv[1], "r+b") as disk:
    disk.write(code.ljust(510, b"\0") + b"\x55\xaa")
END

cat >"$mnt/web01.xml" <<END
<domain type='qemu'>
  <name>web01</name>
  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>$(command -v qemu-system-x86_64)</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source file='$mnt/root.raw'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='$mnt/serial.log'/></serial>
  </devices>
</domain>
END
virt-xml-validate "$mnt/web01.xml" domain

step "libvirt starts it"
mkdir -p "$work/libvirt/etc"
cat >"$work/libvirt/etc/qemu.conf" <<'END'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
END
virt-qemu-run --root "$work/libvirt" --verbose "$mnt/web01.xml" >"$work/libvirt.log" 2>&1 &
helpers+=($!)
deadline=$((SECONDS + guest_seconds))
until grep -q DISK "$mnt/serial.log" 2>/dev/null; do
    kill -0 "${helpers[-1]}" 2>/dev/null || { cat "$work/libvirt.log"; fail "libvirt gave up"; }
    ((SECONDS < deadline)) || { cat "$work/libvirt.log"; fail "the guest did not boot in $guest_seconds s"; }
    sleep 0.2
done

step "the guest stops with libvirt, and nothing of it is readable beneath"
kill "${helpers[-1]}"
wait "${helpers[-1]}" || true
stop_mount "$mnt"
for file in web01.xml serial.log root.raw; do
    ! grep -q -a -e DISK -e '<domain' "$vm/$file" || fail "$file holds plaintext"
done
