//! Memory with special properties: key bytes that never reach swap or a core dump, and page-aligned I/O buffers.

#![allow(unsafe_code, reason = "mmap, mlock and madvise have no safe form in std")]

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use zeroize::Zeroize;

/// Longest secret, in bytes: a DEK of two AES-256 keys.
const CELL: usize = 64;
/// Cells that are mapped and locked together.
const CELLS_PER_CHUNK: usize = 256;

/// Free cells of all chunks. Chunks are never unmapped: cells move between components.
static FREE: Mutex<Vec<Cell>> = Mutex::new(Vec::new());
static LOCK_REFUSED: AtomicBool = AtomicBool::new(false);

/// A cell of a chunk; the value owns the memory.
struct Cell(NonNull<[u8; CELL]>);

// SAFETY: a `Cell` is the only way to its 64 bytes, and moves between owners as a whole.
unsafe impl Send for Cell {}
// SAFETY: shared access to a cell only reads it; writing needs `&mut`.
unsafe impl Sync for Cell {}

/// Up to 64 secret bytes in locked memory: not swapped, not dumped, not inherited by a child; wiped when dropped.
///
/// If the limit on locked memory (`RLIMIT_MEMLOCK`) is too low the bytes are not locked, and
/// [`lock_was_refused`] says so; they are kept out of core dumps nevertheless.
pub struct SecretBytes {
    cell: Option<Cell>,
    len: usize,
}

/// Whether the kernel refused to lock memory for keys, so that they could reach swap.
pub fn lock_was_refused() -> bool {
    LOCK_REFUSED.load(Ordering::Relaxed)
}

impl SecretBytes {
    /// `len` zero bytes to be filled in place.
    ///
    /// # Panics
    /// When `len` is over 64; lengths of keys are constants of the program.
    pub fn zeroed(len: usize) -> Self {
        assert!(len <= CELL, "a secret of {len} bytes, at most {CELL} fit a cell");
        let mut free = FREE.lock();
        if free.is_empty() {
            map_chunk(&mut free);
        }
        Self { cell: free.pop(), len }
    }
}

impl Deref for SecretBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.cell {
            // SAFETY: the cell points to 64 mapped bytes that this value owns.
            Some(cell) => unsafe { &cell.0.as_ref()[..self.len] },
            None => &[],
        }
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.cell {
            // SAFETY: as above, and `&mut self` makes the access exclusive.
            Some(cell) => unsafe { &mut cell.0.as_mut()[..self.len] },
            None => &mut [],
        }
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.zeroize();
        if let Some(cell) = self.cell.take() {
            FREE.lock().push(cell);
        }
    }
}

impl zeroize::Zeroize for SecretBytes {
    fn zeroize(&mut self) {
        self.deref_mut().zeroize();
    }
}

/// Maps one more chunk of cells, locks it if the limit allows, and keeps it from dumps and children.
fn map_chunk(free: &mut Vec<Cell>) {
    let len = CELL * CELLS_PER_CHUNK;
    let start = map_anonymous(len);
    // SAFETY: the range is the mapping just made; none of these calls changes what is accessible to us.
    unsafe {
        if libc::mlock(start.as_ptr().cast(), len) != 0 {
            LOCK_REFUSED.store(true, Ordering::Relaxed);
        }
        libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTDUMP);
        libc::madvise(start.as_ptr().cast(), len, libc::MADV_WIPEONFORK);
    }
    for index in 0..CELLS_PER_CHUNK {
        // SAFETY: `index * CELL` lies within the mapping; [u8; 64] has no alignment.
        free.push(Cell(unsafe { start.add(index * CELL).cast() }));
    }
}

/// Zeroed private memory, page-aligned. Running out of memory ends the process, as any other allocation does.
fn map_anonymous(len: usize) -> NonNull<u8> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    match NonNull::new(start.cast::<u8>()) {
        Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => start,
        _ => std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; 4096]>()),
    }
}

/// Keeps the C library from retaining much memory in a process that lives long. Call it before there are threads.
///
/// It would keep freed blocks of up to 32 MiB for new ones of that size, such as buffers of which little is touched, and would zero
/// them then; and each thread could have an arena that retains what was freed there.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: neither call takes a pointer, and there are no other threads yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Returns freed memory to the system.
pub fn return_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Page-aligned memory for I/O; untouched pages cost nothing. Kept out of core dumps: it holds guests' data.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer is plain memory with one owner.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `len` zero bytes; `len` is at least 1.
    pub fn zeroed(len: usize) -> Self {
        let start = map_anonymous(len.max(1));
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(start.as_ptr().cast(), len.max(1), libc::MADV_DONTDUMP) };
        Self { start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes at `start` are mapped, initialised by the kernel, and owned by this value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `zeroed` with this length, and nothing borrows it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len.max(1)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_secret_leaves_only_zeros() {
        let mut secret = SecretBytes::zeroed(64);
        secret.fill(0x5a);
        drop(secret);
        // Cells are handed out again unwiped, so the one just dropped must be among these, and zero.
        let reused: Vec<SecretBytes> = (0..2 * CELLS_PER_CHUNK).map(|_| SecretBytes::zeroed(64)).collect();
        assert!(reused.iter().all(|cell| cell.iter().all(|&byte| byte == 0)));
    }

    #[test]
    fn secrets_do_not_overlap() {
        let mut secrets: Vec<SecretBytes> = (0..1000).map(|_| SecretBytes::zeroed(64)).collect();
        for (number, secret) in (0..=255).cycle().zip(&mut secrets) {
            secret.fill(number);
        }
        for (number, secret) in (0..=255).cycle().zip(&secrets) {
            assert!(secret.iter().all(|&byte| byte == number));
        }
    }

    /// What the kernel says of the mapping that an address is in: `lo` locked, `dd` not dumped, `wf` wiped in a child.
    fn flags_of(address: *const u8) -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let [start, end] = [range.map(|range| range.0), range.map(|range| range.1)]
                .map(|bound| bound.and_then(|bound| usize::from_str_radix(bound, 16).ok()));
            if let (Some(start), Some(end)) = (start, end) {
                inside = (start..end).contains(&address.addr());
            }
            if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags: ")) {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        panic!("no mapping at {address:?}")
    }

    #[test]
    fn secrets_are_locked_and_neither_dumped_nor_inherited() {
        let secret = SecretBytes::zeroed(64);
        let flags = flags_of(secret.as_ptr());
        for wanted in ["dd", "wf"] {
            assert!(flags.iter().any(|flag| flag == wanted), "{wanted}: {flags:?}");
        }
        assert_eq!(flags.iter().any(|flag| flag == "lo"), !lock_was_refused(), "{flags:?}");
        let buffer = AlignedBuffer::zeroed(10_000);
        assert!(flags_of(buffer.as_ptr()).iter().any(|flag| flag == "dd"), "guests' data would be dumped");
    }

    #[test]
    fn buffers_are_page_aligned_and_zero() {
        let buffer = AlignedBuffer::zeroed(10_000);
        assert_eq!(buffer.len(), 10_000);
        assert_eq!(buffer.as_ptr().align_offset(4096), 0);
        assert!(buffer.iter().all(|&byte| byte == 0));
    }
}
