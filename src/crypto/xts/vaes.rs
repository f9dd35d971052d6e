//! AES-256-XTS (IEEE 1619-2018) by the AES instructions for 256-bit registers (VAES).
//!
//! CPUs that have these but not AVX-512 (AMD Zen 3, Intel's client cores) run AWS-LC's XTS on 128-bit registers, at half the
//! speed or less; and the crate `aes` (0.9.4) finds VAES only where there is AVX-512, too. Sixteen blocks are under way at once:
//! eight registers of two blocks, as many as hide the latency of an AES round.
//!
//! Key schedules are read-only, so all threads share one, without a lock. They lie in the heap and are wiped when dropped.

#![allow(unsafe_code, reason = "instructions that not every CPU has, and loads of whole registers")]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_aesimc_si128, _mm_aeskeygenassist_si128, _mm_shuffle_epi32, _mm_slli_si128, _mm_xor_si128,
    _mm256_aesdec_epi128, _mm256_aesdeclast_epi128, _mm256_aesenc_epi128, _mm256_aesenclast_epi128,
    _mm256_broadcastsi128_si256, _mm256_clmulepi64_epi128, _mm256_set_epi64x, _mm256_slli_epi64, _mm256_slli_si256,
    _mm256_srli_epi64, _mm256_srli_si256, _mm256_xor_si256,
};
use std::hint::black_box;
use std::ptr;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{SectorCipher, check_len, check_lens, tweaks, wiping_stack};
use crate::error::{Error, Kind, Result};
use crate::key::{DISK_DEK_LEN, Dek};
use crate::sector::{SectorIndex, SectorSize};

const BLOCK: usize = 16;
const ROUND_KEYS: usize = 15;
/// Registers that are under way at once, and the bytes that they hold.
const REGISTERS: usize = 8;
const GROUP: usize = 2 * BLOCK * REGISTERS;

type Registers = [__m256i; REGISTERS];

pub(super) struct Vaes(Box<Schedules>);

/// Round keys in the order of their use.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Schedules {
    encrypt: Schedule,
    decrypt: Schedule,
    tweak: Schedule,
}

#[derive(Zeroize)]
#[repr(align(16))]
struct Schedule([[u8; BLOCK]; ROUND_KEYS]);

/// Whether this CPU has the instructions.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("aes")
}

/// Whether AWS-LC has nothing better for this CPU.
pub(super) fn is_fastest() -> bool {
    is_supported() && !is_x86_feature_detected!("avx512f")
}

impl Vaes {
    pub(super) fn new(dek: &Dek) -> Result<Self> {
        if !is_supported() {
            return Err(Error::new(Kind::Unsupported, "this CPU has no VAES, which the cipher engine vaes needs"));
        }
        let mut schedules =
            Box::new(Schedules { encrypt: Schedule::zeroed(), decrypt: Schedule::zeroed(), tweak: Schedule::zeroed() });
        let (data_key, tweak_key) = dek.bytes().split_at(DISK_DEK_LEN / 2);
        let Schedules { encrypt, decrypt, tweak } = &mut *schedules;
        // SAFETY: the CPU has the instructions.
        wiping_stack(|| unsafe {
            expand(data_key, encrypt);
            invert(encrypt, decrypt);
            expand(tweak_key, tweak);
        });
        Ok(Self(schedules))
    }

    fn run<const ENCRYPT: bool>(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        check_len(data.len())?;
        let mut tweaks = tweaks(first);
        for sectors in data.chunks_mut(2 * REGISTERS * size.in_memory()) {
            let mut starts = [0; GROUP];
            starts.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&mut tweaks).for_each(|(start, tweak)| *start = tweak);
            // SAFETY: the CPU has the instructions, or there were no `Vaes`.
            unsafe { process::<ENCRYPT>(&self.0, &mut starts, size.in_memory(), sectors) };
        }
        Ok(())
    }
}

impl Schedule {
    fn zeroed() -> Self {
        Self([[0; BLOCK]; ROUND_KEYS])
    }
}

impl SectorCipher for Vaes {
    fn encrypt(&self, first: SectorIndex, size: SectorSize, plain: &[u8], cipher: &mut [u8]) -> Result<()> {
        check_lens(plain.len(), cipher.len())?;
        cipher.copy_from_slice(plain);
        self.encrypt_in_place(first, size, cipher)
    }

    fn encrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        self.run::<true>(first, size, data)
    }

    fn decrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        self.run::<false>(first, size, data)
    }
}

/// Up to sixteen sectors, of which `starts` has the tweaks.
#[target_feature(enable = "vaes,vpclmulqdq,avx2,aes")]
fn process<const ENCRYPT: bool>(keys: &Schedules, starts: &mut [u8; GROUP], sector_len: usize, data: &mut [u8]) {
    let mut masks = load_group(starts);
    rounds::<true>(&keys.tweak, &mut masks);
    store_group(&masks, starts);
    let schedule = if ENCRYPT { &keys.encrypt } else { &keys.decrypt };
    for (sector, start) in data.chunks_mut(sector_len).zip(starts.as_chunks::<BLOCK>().0) {
        process_sector::<ENCRYPT>(schedule, start, sector);
    }
}

/// One sector, whose first block has the tweak `start`.
#[target_feature(enable = "vaes,vpclmulqdq,avx2,aes")]
#[inline]
fn process_sector<const ENCRYPT: bool>(schedule: &Schedule, start: &[u8; BLOCK], sector: &mut [u8]) {
    let mut masks = first_masks(u128::from_le_bytes(*start));
    let (groups, rest) = sector.as_chunks_mut::<GROUP>();
    for group in groups {
        process_group::<ENCRYPT>(schedule, &masks, group);
        for mask in &mut masks {
            *mask = times_x16(*mask);
        }
    }
    if !rest.is_empty() {
        let mut group = [0; GROUP];
        group[..rest.len()].copy_from_slice(rest);
        process_group::<ENCRYPT>(schedule, &masks, &mut group);
        rest.copy_from_slice(&group[..rest.len()]);
    }
}

#[target_feature(enable = "vaes,vpclmulqdq,avx2,aes")]
#[inline]
fn process_group<const ENCRYPT: bool>(schedule: &Schedule, masks: &Registers, group: &mut [u8; GROUP]) {
    let mut blocks = load_group(group);
    for (block, mask) in blocks.iter_mut().zip(masks) {
        *block = _mm256_xor_si256(*block, *mask);
    }
    // Round keys are to be loaded again for each group, and also for the last one that is not whole. Otherwise the compiler loads
    // all of them ahead of the loops: that leaves too few registers for the blocks, and puts the keys on the stack.
    rounds::<ENCRYPT>(black_box(schedule), &mut blocks);
    for (block, mask) in blocks.iter_mut().zip(masks) {
        *block = _mm256_xor_si256(*block, *mask);
    }
    store_group(&blocks, group);
}

/// AES-256 (FIPS 197) of all blocks.
#[target_feature(enable = "vaes,vpclmulqdq,avx2,aes")]
#[inline]
fn rounds<const ENCRYPT: bool>(schedule: &Schedule, blocks: &mut Registers) {
    let [whitening, middle @ .., last] = &schedule.0;
    let key = broadcast(whitening);
    for block in blocks.iter_mut() {
        *block = _mm256_xor_si256(*block, key);
    }
    for key in middle {
        let key = broadcast(key);
        for block in blocks.iter_mut() {
            *block = if ENCRYPT { _mm256_aesenc_epi128(*block, key) } else { _mm256_aesdec_epi128(*block, key) };
        }
    }
    let key = broadcast(last);
    for block in blocks.iter_mut() {
        *block = if ENCRYPT { _mm256_aesenclast_epi128(*block, key) } else { _mm256_aesdeclast_epi128(*block, key) };
    }
}

/// Masks of sixteen blocks: `start` times 1, x, x²...
#[target_feature(enable = "vaes,vpclmulqdq,avx2,aes")]
#[inline]
fn first_masks(start: u128) -> Registers {
    let second = (start << 1) ^ if start >> 127 == 1 { POLYNOMIAL } else { 0 };
    let mut pair = _mm256_set_epi64x(high(second), low(second), high(start), low(start));
    let mut masks = [pair; REGISTERS];
    for mask in &mut masks[1..] {
        pair = times_x2(pair);
        *mask = pair;
    }
    masks
}

/// Reduces what is shifted out of GF(2^128) as IEEE 1619 has it: x^128 = x^7 + x^2 + x + 1.
const POLYNOMIAL: u128 = 0x87;

#[allow(clippy::cast_possible_truncation, reason = "halves of a number")]
fn low(number: u128) -> i64 {
    number as i64
}

fn high(number: u128) -> i64 {
    low(number >> 64)
}

/// Two masks, each times x^16: sixteen bits move up, and those that leave come back reduced.
#[target_feature(enable = "vaes,vpclmulqdq,avx2,aes")]
#[inline]
fn times_x16(masks: __m256i) -> __m256i {
    let left = _mm256_srli_si256::<14>(masks);
    _mm256_xor_si256(_mm256_slli_si256::<2>(masks), _mm256_clmulepi64_epi128::<0>(left, polynomial()))
}

/// Two masks, each times x^2.
#[target_feature(enable = "vaes,vpclmulqdq,avx2,aes")]
#[inline]
fn times_x2(masks: __m256i) -> __m256i {
    let left = _mm256_srli_epi64::<62>(masks);
    let kept = _mm256_xor_si256(_mm256_slli_epi64::<2>(masks), _mm256_slli_si256::<8>(left));
    _mm256_xor_si256(kept, _mm256_clmulepi64_epi128::<1>(left, polynomial()))
}

#[target_feature(enable = "avx2")]
#[inline]
fn polynomial() -> __m256i {
    _mm256_set_epi64x(0, low(POLYNOMIAL), 0, low(POLYNOMIAL))
}

/// Round keys for encryption (FIPS 197, 5.2).
#[target_feature(enable = "avx2,aes")]
fn expand(key: &[u8], schedule: &mut Schedule) {
    let (halves, _) = key.as_chunks::<BLOCK>();
    let mut pair = [load_key(&halves[0]), load_key(&halves[1])];
    for (index, keys) in schedule.0.chunks_mut(2).enumerate() {
        keys.iter_mut().zip(pair).for_each(|(key, value)| store_key(value, key));
        pair = match index {
            0 => next_pair::<0x01>(pair),
            1 => next_pair::<0x02>(pair),
            2 => next_pair::<0x04>(pair),
            3 => next_pair::<0x08>(pair),
            4 => next_pair::<0x10>(pair),
            5 => next_pair::<0x20>(pair),
            _ => next_pair::<0x40>(pair),
        };
    }
}

#[target_feature(enable = "avx2,aes")]
fn next_pair<const CONSTANT: i32>([even, odd]: [__m128i; 2]) -> [__m128i; 2] {
    let mixed = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<CONSTANT>(odd));
    let even = _mm_xor_si128(sums_of_words(even), mixed);
    let mixed = _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(even));
    [even, _mm_xor_si128(sums_of_words(odd), mixed)]
}

/// Each word plus, in GF(2), all words before it.
#[target_feature(enable = "avx2")]
fn sums_of_words(key: __m128i) -> __m128i {
    let pairs = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs))
}

/// Round keys for decryption, by the equivalent inverse cipher (FIPS 197, 5.3.5).
#[target_feature(enable = "avx2,aes")]
fn invert(encrypt: &Schedule, decrypt: &mut Schedule) {
    let last = ROUND_KEYS - 1;
    for (index, key) in decrypt.0.iter_mut().enumerate() {
        let of_encryption = load_key(&encrypt.0[last - index]);
        let inner = (1..last).contains(&index);
        store_key(if inner { _mm_aesimc_si128(of_encryption) } else { of_encryption }, key);
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_group(bytes: &[u8; GROUP]) -> Registers {
    let (registers, _) = bytes.as_chunks::<32>();
    let mut blocks = [load(&registers[0]); REGISTERS];
    for (block, register) in blocks.iter_mut().zip(registers) {
        *block = load(register);
    }
    blocks
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_group(blocks: &Registers, bytes: &mut [u8; GROUP]) {
    let (registers, _) = bytes.as_chunks_mut::<32>();
    for (register, block) in registers.iter_mut().zip(blocks) {
        store(*block, register);
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes, at any alignment; every bit pattern is a value.
    unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(value: __m256i, bytes: &mut [u8; 32]) {
    // SAFETY: 32 writable bytes, at any alignment, borrowed mutably.
    unsafe { ptr::write_unaligned(bytes.as_mut_ptr().cast(), value) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(key: &[u8; BLOCK]) -> __m256i {
    _mm256_broadcastsi128_si256(load_key(key))
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_key(key: &[u8; BLOCK]) -> __m128i {
    // SAFETY: 16 readable bytes, at any alignment; every bit pattern is a value.
    unsafe { ptr::read_unaligned(key.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store_key(value: __m128i, key: &mut [u8; BLOCK]) {
    // SAFETY: 16 writable bytes, at any alignment, borrowed mutably.
    unsafe { ptr::write_unaligned(key.as_mut_ptr().cast(), value) }
}

#[cfg(test)]
impl super::tests::AnyTweak for Vaes {
    fn unit(&self, encrypt: bool, tweak: [u8; 16], data: &[u8]) -> Vec<u8> {
        let mut result = data.to_vec();
        let mut starts = [0; GROUP];
        starts[..BLOCK].copy_from_slice(&tweak);
        // SAFETY: the CPU has the instructions, or there were no `Vaes`.
        unsafe {
            if encrypt {
                process::<true>(&self.0, &mut starts, data.len(), &mut result);
            } else {
                process::<false>(&self.0, &mut starts, data.len(), &mut result);
            }
        }
        result
    }
}
