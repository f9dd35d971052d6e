//! AES-256-XTS (IEEE 1619-2018) by AWS-LC's EVP interface, which `aws-lc-rs` does not offer.
//!
//! A context holds a key schedule for one direction and serves one thread and one sector at a time, so a cipher keeps
//! contexts in places that threads try, each its own first, and never wait for. A thread thus mostly meets the context
//! that its CPU has in cache: one queue for all threads cost up to a fifth of a 4 KiB call when two threads shared it.
//!
//! The DEK lies in locked memory. The key schedules lie in AWS-LC's own heap: AWS-LC wipes them when it frees them, but
//! they are neither locked nor kept from dumps page by page (pages of a heap hold other things, too), so they rely on
//! the process being undumpable and on the host's swap being off or encrypted.

#![allow(unsafe_code, reason = "aws-lc-rs has no XTS; AWS-LC's C interface has")]

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use aws_lc_sys::{
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_Cipher, EVP_CipherInit_ex, EVP_aes_256_xts,
};
use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

use super::{SectorCipher, check_len, check_lens, tweaks};
use crate::error::{Error, Kind, Result};
use crate::key::{DISK_DEK_LEN, Dek};
use crate::sector::{SectorIndex, SectorSize};
use crate::sys::thread;

/// Places for contexts of one direction; threads beyond these, all at once, make their own and free them.
const PLACES: usize = 16;

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
            let sectors = plain.chunks(size.in_memory()).zip(cipher.chunks_mut(size.in_memory()));
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

/// Contexts of one direction, a place for each thread.
struct Pool {
    direction: Direction,
    places: [CachePadded<Mutex<Option<XtsContext>>>; PLACES],
}

impl Pool {
    fn new(direction: Direction) -> Self {
        Self { direction, places: Default::default() }
    }

    /// Lends a context to `work`; one that failed is not lent again. Never blocks.
    fn with(&self, dek: &Dek, work: impl FnOnce(&mut XtsContext) -> Result<()>) -> Result<()> {
        let own = thread::thread_index() % PLACES;
        let free = (own..own + PLACES).find_map(|number| self.places[number % PLACES].try_lock());
        let Some(mut place) = free else {
            return work(&mut XtsContext::new(self.direction, dek)?);
        };
        let mut context = match place.take() {
            Some(context) => context,
            None => XtsContext::new(self.direction, dek)?,
        };
        work(&mut context)?;
        *place = Some(context);
        Ok(())
    }
}

/// An `EVP_CIPHER_CTX` with its key and direction set. The value owns the memory.
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
        // SAFETY: the context is live and only ours; the cipher is a static of AWS-LC; the key is the 64 bytes that
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
        data.chunks_mut(size.in_memory()).zip(tweaks(first)).try_for_each(|(sector, tweak)| {
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

    fn kept(pool: &Pool) -> usize {
        pool.places.iter().filter(|place| place.lock().is_some()).count()
    }

    #[test]
    fn a_thread_comes_back_to_its_context() {
        let cipher = AwsLc::new(&random::disk_dek().unwrap()).unwrap();
        assert_eq!((kept(&cipher.encrypting), kept(&cipher.decrypting)), (0, 1));
        for _ in 0..100 {
            cipher.encrypt_in_place(SectorIndex(0), SectorSize::DEFAULT, &mut [0; 32]).unwrap();
            cipher.decrypt_in_place(SectorIndex(0), SectorSize::DEFAULT, &mut [0; 32]).unwrap();
        }
        assert_eq!((kept(&cipher.encrypting), kept(&cipher.decrypting)), (1, 1));
    }

    #[test]
    fn who_finds_all_places_taken_is_served_all_the_same() {
        fn nested(cipher: &AwsLc, depth: usize) {
            let work = |context: &mut XtsContext| {
                if depth > 0 {
                    nested(cipher, depth - 1);
                }
                context.in_place(SectorIndex(1), SectorSize::DEFAULT, &mut [0; 32])
            };
            cipher.encrypting.with(&cipher.dek, work).unwrap();
        }
        let cipher = AwsLc::new(&random::disk_dek().unwrap()).unwrap();
        nested(&cipher, 2 * PLACES);
        assert_eq!(kept(&cipher.encrypting), PLACES);
    }

    #[test]
    fn a_context_that_failed_is_not_lent_again() {
        let cipher = AwsLc::new(&random::disk_dek().unwrap()).unwrap();
        cipher.decrypting.with(&cipher.dek, |context| context.sector(&[0; 16], &[], &mut [])).unwrap_err();
        assert_eq!(kept(&cipher.decrypting), 0);
        cipher.decrypt_in_place(SectorIndex(0), SectorSize::DEFAULT, &mut [0; 32]).unwrap();
    }
}
