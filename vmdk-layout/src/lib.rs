//! VMware virtual disks and VM folders, understood without any I/O of its own.
#![forbid(unsafe_code)]
