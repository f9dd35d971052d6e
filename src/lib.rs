//! VM encryption for QEMU/KVM hosts: encrypted disks and homes, seen decrypted through a FUSE mount.
