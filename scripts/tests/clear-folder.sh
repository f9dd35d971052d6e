# Sourced by the tests of `encrypt` and `decrypt`: VM folders in the clear, and what of them must survive.
# shellcheck shell=bash

# small_folder DIR: every kind of thing that a VM folder can hold, each of them small.
small_folder() {
    mkdir -p "$1/tpm/deep"
    (
        cd "$1" || exit
        head -c 200000 /dev/urandom >root.raw
        truncate -s 3M root.raw
        head -c 5000 /dev/urandom | dd of=root.raw bs=1 seek=2500000 conv=notrunc status=none
        printf 'displayName = "web01"\nscsi0:0.fileName = "root.vmdk"\n' >web01.vmx
        head -c 20000 /dev/urandom >web01.nvram
        : >empty
        echo log >vmware.log
        ln vmware.log tpm/deep/same-log
        ln root.raw tpm/same-disk
        ln -s ../web01.vmx tpm/link
        mkfifo fifo
        setfattr -n user.note -v plaintext-value web01.vmx
        setfattr -n user.note -v plaintext-value tpm
        setfattr -n user.note -v plaintext-value empty
        setfattr -n user.note -v plaintext-value root.raw
        chmod 640 web01.vmx
        chmod 444 web01.nvram
        [[ $(id -u) -ne 0 ]] || chown 1234:2345 web01.vmx tpm/link
        # Where the file system has ACLs: for what there is, and for what is made from now on, which nothing here is.
        if setfacl -m u:1000:rwx web01.nvram 2>/dev/null; then
            setfacl -m u:1000:rw-,m::r-- root.raw
            setfacl -m u:1000:rw- fifo
            setfacl -m u:1000:--x tpm
            setfacl -d -m u:1000:rwx . tpm
        fi
        touch -h -d '2001-02-03 04:05:06.789' tpm/link
        touch -d '2020-01-02 03:04:05.123456789' web01.vmx root.raw tpm/deep tpm
    )
}

# fingerprint DIR: names, kinds, modes, owners, lengths, links, targets, xattrs, ACLs and content of all below, and times of folders:
# those of files and symbolic links tell when they were encrypted.
fingerprint() {
    (
        cd "$1" || exit
        # A folder's own length is the file system's affair.
        find . -mindepth 1 ! -name '.vmcryptfs-*' -type d -printf '%p %y %m %U %G %T@\n'
        find . -mindepth 1 ! -type d -printf '%p %y %m %U %G %s %n %l\n'
        find . -type f -exec sha256sum {} +
        getfattr -R -P -h -d -m '^user' . 2>/dev/null
        getfattr -R -P -h -d -e hex -m '^system.posix_acl' . 2>/dev/null
    ) | sort
}

# left_over VM [NAME]: what an interrupted verb has left in an encrypted VM folder, which beside its files has the list of its disks,
# and what is called NAME.
left_over() {
    local uuid
    uuid=$(vmc info --json "$1" | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["uuid"])')
    find "$1" -name '.vmcryptfs-*' ! -name ".vmcryptfs-members-$uuid" ! -name "${2:-}"
}

# must_equal WHAT EXPECTED FOUND: two files of fingerprints.
must_equal() {
    cmp -s "$2" "$3" || fail "$1: $(diff "$2" "$3" | head -n 10)"
}
