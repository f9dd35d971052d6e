//! AES-256-XTS (IEEE 1619-2018) by AWS-LC's EVP interface, which `aws-lc-rs` does not offer.
//!
//! A context holds a key schedule for one direction and serves one thread and one sector at a time, so a cipher keeps
//! idle contexts in two lock-free queues: take one or make one, use it, put it back. The DEK lies in locked memory. The
//! key schedules lie in AWS-LC's own heap: AWS-LC wipes them when it frees them, but they are neither locked nor marked
//! page by page, so they rely on the process being undumpable and on the host's swap being off or encrypted.

#![allow(unsafe_code, reason = "aws-lc-rs has no XTS; AWS-LC's C interface has")]

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use aws_lc_sys::{
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_Cipher, EVP_CipherInit_ex, EVP_aes_256_xts,
};
use crossbeam::queue::ArrayQueue;

use super::{SectorCipher, check_len, check_lens, tweaks};
use crate::error::{Error, Kind, Result};
use crate::key::{DISK_DEK_LEN, Dek};
use crate::sector::{SectorIndex, SectorSize};

/// Contexts of one direction that wait for the next request; more threads than these make their own and free them.
const IDLE_CONTEXTS: usize = 16;

pub(super) struct AwsLc {
    dek: Dek,
    encrypting: Pool,
    decrypting: Pool,
}

impl AwsLc {
    pub(super) fn new(dek: &Dek) -> Result<Self> {
        let cipher = Self {
            dek: dek.duplicate(),
            encrypting: Pool::new(Direction::Encrypt),
            decrypting: Pool::new(Direction::Decrypt),
        };
        // A key that AWS-LC refuses is refused here, not at the first read.
        cipher.decrypting.with(&cipher.dek, |_| Ok(()))?;
        Ok(cipher)
    }
}

impl SectorCipher for AwsLc {
    fn encrypt(&self, first: SectorIndex, size: SectorSize, plain: &[u8], cipher: &mut [u8]) -> Result<()> {
        check_lens(plain.len(), cipher.len())?;
        self.encrypting.with(&self.dek, |context| {
            let sectors = plain.chunks(size.len()).zip(cipher.chunks_mut(size.len()));
            sectors.zip(tweaks(first)).try_for_each(|((plain, cipher), tweak)| context.sector(&tweak, plain, cipher))
        })
    }

    fn encrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        check_len(data.len())?;
        self.encrypting.with(&self.dek, |context| context.in_place(first, size, data))
    }

    fn decrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        check_len(data.len())?;
        self.decrypting.with(&self.dek, |context| context.in_place(first, size, data))
    }
}

/// Values are AWS-LC's.
#[derive(Clone, Copy)]
enum Direction {
    Decrypt = 0,
    Encrypt = 1,
}

/// Idle contexts of one direction.
struct Pool {
    direction: Direction,
    idle: ArrayQueue<XtsContext>,
}

impl Pool {
    fn new(direction: Direction) -> Self {
        Self { direction, idle: ArrayQueue::new(IDLE_CONTEXTS) }
    }

    /// Lends a context to `work`; one that failed is not lent again.
    fn with(&self, dek: &Dek, work: impl FnOnce(&mut XtsContext) -> Result<()>) -> Result<()> {
        let mut context = match self.idle.pop() {
            Some(context) => context,
            None => XtsContext::new(self.direction, dek)?,
        };
        work(&mut context)?;
        // A full pool hands the context back, and dropping it frees it.
        drop(self.idle.push(context));
        Ok(())
    }
}

/// An `EVP_CIPHER_CTX` with its key and direction set. Whoever holds the value owns the memory.
struct XtsContext(NonNull<EVP_CIPHER_CTX>);

// SAFETY: AWS-LC ties a context to no thread, and this value is the only way to it.
unsafe impl Send for XtsContext {}

impl XtsContext {
    fn new(direction: Direction, dek: &Dek) -> Result<Self> {
        let key: &[u8; DISK_DEK_LEN] = dek
            .bytes()
            .try_into()
            .map_err(|error| Error::with_source(Kind::Invalid, "AES-256-XTS takes a key of 64 bytes", error))?;
        // SAFETY: takes no argument, and gives null or a context that we own.
        let context =
            NonNull::new(unsafe { EVP_CIPHER_CTX_new() }).map(Self).ok_or_else(|| failed("make a context"))?;
        // SAFETY: the context is live and ours alone; the cipher is a static of AWS-LC; the key is the 64 bytes that
        // AES-256-XTS reads; engine and IV may be null, the IV comes with each sector.
        let done = unsafe {
            EVP_CipherInit_ex(
                context.0.as_ptr(),
                EVP_aes_256_xts(),
                ptr::null_mut(),
                key.as_ptr(),
                ptr::null(),
                direction as c_int,
            )
        };
        if done == 1 { Ok(context) } else { Err(failed("set its key")) }
    }

    /// All sectors of `data`, the first of which is sector `first`.
    fn in_place(&mut self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        data.chunks_mut(size.len()).zip(tweaks(first)).try_for_each(|(sector, tweak)| {
            let start = sector.as_mut_ptr();
            // SAFETY: `sector` is that many readable and writable bytes, borrowed mutably; XTS may work in place.
            unsafe { self.process(&tweak, start, start, sector.len()) }
        })
    }

    /// One sector, whole or short, from one place to another.
    fn sector(&mut self, tweak: &[u8; 16], from: &[u8], to: &mut [u8]) -> Result<()> {
        check_lens(from.len(), to.len())?;
        // SAFETY: both slices have that length, the second is borrowed mutably, so they do not overlap.
        unsafe { self.process(tweak, from.as_ptr(), to.as_mut_ptr(), from.len()) }
    }

    /// One data unit under `tweak`.
    ///
    /// # Safety
    /// `len` bytes are readable at `from` and writable at `to`, and the two are the same place or do not overlap.
    unsafe fn process(&mut self, tweak: &[u8; 16], from: *const u8, to: *mut u8, len: usize) -> Result<()> {
        // SAFETY: the context is live, exclusively borrowed and has its cipher and key, so null for both and -1 for the
        // direction keep them; the IV of AES-256-XTS is the tweak's 16 bytes.
        let tweaked = unsafe {
            EVP_CipherInit_ex(self.0.as_ptr(), ptr::null(), ptr::null_mut(), ptr::null(), tweak.as_ptr(), -1)
        };
        if tweaked != 1 {
            return Err(failed("set a tweak"));
        }
        // SAFETY: as above; XTS reads and writes exactly `len` bytes, for which the caller answers.
        let done = unsafe { EVP_Cipher(self.0.as_ptr(), to, from, len) };
        if done == 1 { Ok(()) } else { Err(failed("process a sector")) }
    }
}

impl Drop for XtsContext {
    fn drop(&mut self) {
        // SAFETY: this value owned the context, and nothing borrows it any more. Wipes the key schedule.
        unsafe { EVP_CIPHER_CTX_free(self.0.as_ptr()) };
    }
}

fn failed(to: &str) -> Error {
    Error::new(Kind::Io, format!("AWS-LC's AES-256-XTS failed to {to}"))
}

#[cfg(test)]
impl super::tests::AnyTweak for AwsLc {
    fn unit(&self, encrypt: bool, tweak: [u8; 16], data: &[u8]) -> Vec<u8> {
        let pool = if encrypt { &self.encrypting } else { &self.decrypting };
        let mut result = vec![0; data.len()];
        pool.with(&self.dek, |context| context.sector(&tweak, data, &mut result)).unwrap();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random;

    #[test]
    fn contexts_are_kept_up_to_the_limit_and_freed_beyond() {
        let cipher = AwsLc::new(&random::disk_dek().unwrap()).unwrap();
        assert_eq!((cipher.encrypting.idle.len(), cipher.decrypting.idle.len()), (0, 1));
        let many: Vec<XtsContext> =
            (0..IDLE_CONTEXTS + 3).map(|_| XtsContext::new(Direction::Encrypt, &cipher.dek).unwrap()).collect();
        for context in many {
            drop(cipher.encrypting.idle.push(context));
        }
        cipher.encrypt_in_place(SectorIndex(0), SectorSize::DEFAULT, &mut [0; 32]).unwrap();
        assert_eq!(cipher.encrypting.idle.len(), IDLE_CONTEXTS);
    }

    #[test]
    fn a_context_that_failed_is_not_lent_again() {
        let cipher = AwsLc::new(&random::disk_dek().unwrap()).unwrap();
        cipher.decrypting.with(&cipher.dek, |context| context.sector(&[0; 16], &[], &mut [])).unwrap_err();
        assert!(cipher.decrypting.idle.is_empty());
        cipher.decrypt_in_place(SectorIndex(0), SectorSize::DEFAULT, &mut [0; 32]).unwrap();
    }

    #[test]
    fn aws_lc_itself_refuses_equal_halves() {
        let dek = Dek::new(crate::sys::SecretBytes::zeroed(DISK_DEK_LEN)).unwrap();
        assert!(AwsLc::new(&dek).is_err());
    }
}
