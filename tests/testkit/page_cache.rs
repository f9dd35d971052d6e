//! What the page cache holds of a file, asked without reading: a read would make the system read ahead.

#![allow(unsafe_code, reason = "mmap and mincore have no safe form in std or rustix")]

use std::fs::File;
use std::os::fd::AsRawFd;

/// Whether the page at `offset` is in the page cache. The file must be open for writing, or be one's own.
pub(crate) fn is_cached(file: &File, offset: u64) -> bool {
    let page = 4096;
    let offset = libc::off_t::try_from(offset).unwrap() / page * page;
    let len = usize::try_from(page).unwrap();
    let mut state = 0_u8;
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody reads, is asked about and taken away;
    // `state` has a byte for its one page.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), offset);
        assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let asked = libc::mincore(start, len, &raw mut state);
        assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
        libc::munmap(start, len);
    }
    state & 1 == 1
}
