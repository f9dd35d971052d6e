#!/usr/bin/env bash
# Boots guests with OVMF and a TPM, and judges what they measured: another kernel, another command line and Secure Boot that
# is off are refused with the event named; what was predicted and approved is accepted. Needs cargo, not a mount.
#
#     KEEP=FOLDER    keep the logs and values in FOLDER, as in attest/tests/vectors/boots
set -euo pipefail
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/../../..")
# shellcheck source=scripts/requirements.sh
source "$root/scripts/requirements.sh"
if [[ $(uname -m) != x86_64 ]]; then
    echo "the guest is built for x86_64 machines only; this is $(uname -m)"
    exit 77
fi
require_rust
require_tools \
    'qemu-system-x86_64|qemu-system-x86|runs the guests' \
    'file:/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd|ovmf|is their firmware, and has keys for Secure Boot' \
    'swtpm|swtpm|is their TPM' \
    'swtpm_setup|swtpm-tools|makes such a TPM' \
    'objcopy|binutils|makes unified kernel images' \
    'sbsign|sbsigntool|signs them' \
    'openssl|openssl|opens the key of the snakeoil certificate' \
    'file:/lib/systemd/systemd-measure|systemd|calculates PCR 11'

firmware=/usr/share/OVMF
work=$(mktemp -d "${TMPDIR:-/var/tmp}/vmcb.XXXXXX")
qemu='' tpm=''
# shellcheck disable=SC2317 # called by trap
finish() {
    [[ -z $qemu ]] || kill "$qemu" 2>/dev/null || true
    [[ -z $tpm ]] || kill "$tpm" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM INT

# The packages' files, unpacked and not installed.
current=$(apt-cache depends linux-image-cloud-amd64 | sed -nE 's/^ *Depends: (linux-image-[0-9].*)$/\1/p' | head -n 1)
series=$(sed -E 's/[0-9]+-cloud-amd64$//' <<<"$current")
mapfile -t kernels < <(apt-cache pkgnames "$series" | grep -E -- '-[0-9]+-cloud-amd64$' | sort -V | tail -n 2)
[[ ${#kernels[@]} -eq 2 ]] || { echo "apt knows fewer than two kernels like $current, and this needs another one"; exit 77; }
mkdir "$work/packages" "$work/out"
options=(-qq)
[[ $(id -u) -ne 0 ]] || options+=(-o APT::Sandbox::User=root)
(cd "$work/packages" && apt-get "${options[@]}" download "${kernels[@]}" busybox-static systemd-boot-efi)
for package in "$work/packages"/*.deb; do
    dpkg -x "$package" "$work/files"
done
stub=$work/files/usr/lib/systemd/boot/efi/linuxx64.efi.stub
loader=$work/files/usr/lib/systemd/boot/efi/systemd-bootx64.efi
old_kernel=$work/files/boot/vmlinuz-${kernels[0]#linux-image-}
new_kernel=$work/files/boot/vmlinuz-${kernels[1]#linux-image-}

echo "--- images of ${kernels[1]} and ${kernels[0]}"
mkdir -p "$work/root"/{bin,dev,proc,sys}
cp "$(find "$work/files" -path '*bin/busybox' -type f -print -quit)" "$work/root/bin/busybox"
install -m 755 "$root/scripts/guest/measured-init" "$work/root/init"
make_initrd() {
    (cd "$work/root" && find . | LC_ALL=C sort | bin/busybox cpio -o -H newc -R 0:0 2>/dev/null | gzip -1n) >"$1"
}
make_initrd "$work/initrd"
touch "$work/root/other"
make_initrd "$work/other-initrd"
openssl rsa -in /usr/share/ovmf/PkKek-1-snakeoil.key -passin pass:snakeoil -out "$work/key" 2>/dev/null
sign() {
    sbsign --key "$work/key" --cert /usr/share/ovmf/PkKek-1-snakeoil.pem --output "$2" "$1" >/dev/null 2>&1
}
# On a busy machine the emulated timer can be late when the kernel checks it, which is a panic.
command_line='console=ttyS0 quiet panic=-1 no_timer_check'
printf 'ID=debian\nVERSION_ID=12\n' >"$work/osrel"
printf '%s' "$command_line" >"$work/cmdline"
printf '%s' "$command_line debug" >"$work/other-cmdline"
# make_uki KERNEL COMMAND-LINE NAME: a signed unified kernel image, OUT/NAME.efi.
make_uki() {
    objcopy --add-section .osrel="$work/osrel" --change-section-vma .osrel=0x20000 \
        --add-section .cmdline="$2" --change-section-vma .cmdline=0x30000 \
        --add-section .linux="$1" --change-section-vma .linux=0x2000000 \
        --add-section .initrd="$work/initrd" --change-section-vma .initrd=0x4000000 "$stub" "$work/unsigned"
    sign "$work/unsigned" "$work/out/$3.efi"
}
make_uki "$new_kernel" "$work/cmdline" secure-boot
make_uki "$old_kernel" "$work/cmdline" other-kernel
make_uki "$new_kernel" "$work/other-cmdline" other-command-line
/lib/systemd/systemd-measure calculate --bank=sha256 --phase= --json=short --linux="$new_kernel" --osrel="$work/osrel" \
    --cmdline="$work/cmdline" --initrd="$work/initrd" | sed -E 's/.*"hash":"([0-9a-f]+)".*/\1/' >"$work/out/secure-boot.pcr-11"

# boot NAME VARIABLES: boots what is in $work/esp; what the guest measured becomes OUT/NAME.log and NAME.pcrs.
boot() {
    echo "--- boot of $1"
    local said=$work/$1.said
    rm -rf "$work/tpm" && mkdir "$work/tpm"
    swtpm_setup --tpm2 --tpmstate "$work/tpm" --pcr-banks sha256 >"$said" 2>&1 || { cat "$said"; return 1; }
    cp "$firmware/$2" "$work/variables"
    swtpm socket --tpm2 --tpmstate "dir=$work/tpm" --ctrl "type=unixio,path=$work/tpm.sock" --terminate &
    tpm=$!
    for _ in {1..100}; do [[ ! -S $work/tpm.sock ]] || break; sleep 0.1; done
    timeout --kill-after=10 300 qemu-system-x86_64 -machine q35,smm=on,accel=tcg -cpu max -m 512 -nodefaults \
        -display none -serial stdio -no-reboot -global driver=cfi.pflash01,property=secure,value=on \
        -global ICH9-LPC.disable_s3=1 \
        -drive "if=pflash,unit=0,format=raw,readonly=on,file=$firmware/OVMF_CODE_4M.secboot.fd" \
        -drive "if=pflash,unit=1,format=raw,file=$work/variables" \
        -chardev "socket,id=tpm,path=$work/tpm.sock" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0 \
        -drive "format=raw,file=fat:rw:$work/esp,if=none,id=esp" -device virtio-blk-pci,drive=esp,bootindex=0 \
        </dev/null >"$said" 2>&1 &
    qemu=$!
    wait "$qemu" || { tail -n 30 "$said"; return 1; }
    qemu=''
    wait "$tpm" || true
    tpm=''
    tr -d '\r' <"$said" >"$said.text"
    grep -q '^GUEST: OK$' "$said.text" || { tail -n 30 "$said.text"; return 1; }
    sed -n '/^GUEST: log$/,/^GUEST: end$/{/^GUEST/!p}' "$said.text" | base64 -d >"$work/out/$1.log"
    sed -nE 's/^GUEST: pcr ([0-9]+) ([0-9A-F]+)$/\1 \L\2/p' "$said.text" >"$work/out/$1.pcrs"
    sed -n 's/^GUEST: cmdline //p' "$said.text" | tr -d '\n' >"$work/out/$1.cmdline"
    if [[ $(wc -l <"$work/out/$1.pcrs") -ne 24 ]]; then
        echo "the guest did not print the values of 24 PCRs:"
        tail -n 30 "$said.text"
        return 1
    fi
}

# boot_image NAME IMAGE VARIABLES: the image is what the firmware starts.
boot_image() {
    rm -rf "$work/esp" && mkdir -p "$work/esp/EFI/BOOT"
    cp "$work/out/$2.efi" "$work/esp/EFI/BOOT/BOOTX64.EFI"
    boot "$1" "$3"
}

# boot_loader NAME KERNEL INITRD COMMAND-LINE: systemd-boot starts a kernel.
boot_loader() {
    rm -rf "$work/esp" && mkdir -p "$work/esp/EFI/BOOT" "$work/esp/loader/entries"
    sign "$loader" "$work/esp/EFI/BOOT/BOOTX64.EFI"
    sign "$2" "$work/out/$1.kernel"
    cp "$work/out/$1.kernel" "$work/esp/linux"
    cp "$3" "$work/esp/initrd"
    cp "$3" "$work/out/$1.initrd"
    printf 'timeout 0\ndefault it.conf\n' >"$work/esp/loader/loader.conf"
    printf 'title it\nlinux /linux\ninitrd /initrd\noptions %s\n' "$4" >"$work/esp/loader/entries/it.conf"
    boot "$1" OVMF_VARS_4M.snakeoil.fd
}

boot_image secure-boot secure-boot OVMF_VARS_4M.snakeoil.fd
boot_image other-kernel other-kernel OVMF_VARS_4M.snakeoil.fd
boot_image other-command-line other-command-line OVMF_VARS_4M.snakeoil.fd
boot_image secure-boot-off secure-boot OVMF_VARS_4M.fd
boot_loader loader "$new_kernel" "$work/initrd" "$command_line"
boot_loader loader-next "$old_kernel" "$work/other-initrd" "$command_line debug"

if [[ -n ${KEEP:-} ]]; then
    mkdir -p "$KEEP"
    cp "$work/out"/*.log "$work/out"/*.pcrs "$KEEP"
fi
echo "--- what they measured is judged"
cd "$root"
MEASURED_BOOTS=$work/out cargo test --release --locked --package vmcryptfs-attest --test logs -- --ignored --nocapture
