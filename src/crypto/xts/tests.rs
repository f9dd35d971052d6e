//! What all engines promise, whichever is asked.

use std::collections::HashMap;
use std::thread;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::crypto::random;
use crate::sys::SecretBytes;

fn dek(bytes: &[u8]) -> Dek {
    let mut secret = SecretBytes::zeroed(bytes.len());
    secret.copy_from_slice(bytes);
    Dek::new(secret).unwrap()
}

/// One data unit under a tweak that no sector of a disk has: half of NIST's vectors have such tweaks.
pub(super) trait AnyTweak {
    /// The unit that `data` becomes.
    fn unit(&self, encrypt: bool, tweak: [u8; 16], data: &[u8]) -> Vec<u8>;
}

/// The vectors in tests/vectors/published that no disk could have.
#[test]
fn engines_give_nist_values_under_128_bit_tweaks() {
    let text = include_str!("../../../tests/vectors/published/xts-nist-128-bit-tweaks.txt");
    let mut ran = 0;
    for vector in text.split("id = ").skip(1) {
        let fields: HashMap<&str, &str> = vector.lines().filter_map(|line| line.split_once(" = ")).collect();
        let [key, tweak, plain, wanted] =
            ["key", "tweak", "plain", "cipher"].map(|name| HEXLOWER.decode(fields[name].as_bytes()).unwrap());
        let (dek, tweak) = (dek(&key), tweak.try_into().unwrap());
        for engine in Engine::available() {
            let engine: Box<dyn AnyTweak> = match engine {
                Engine::AwsLc => Box::new(aws_lc::AwsLc::new(&dek).unwrap()),
                #[cfg(target_arch = "x86_64")]
                Engine::Vaes => Box::new(vaes::Vaes::new(&dek).unwrap()),
                #[cfg(not(target_arch = "x86_64"))]
                Engine::Vaes => continue,
                Engine::RustCrypto => Box::new(rustcrypto::RustCrypto::new(&dek).unwrap()),
            };
            assert_eq!(engine.unit(true, tweak, &plain), wanted);
            assert_eq!(engine.unit(false, tweak, &wanted), plain);
        }
        ran += 1;
    }
    assert_eq!(ran, 600);
}

#[test]
fn every_engine_passes_its_self_test() {
    for engine in Engine::available() {
        engine.self_test().unwrap();
    }
}

/// Gives right bytes except that one of the three calls is wrong in its last bit.
struct Faulty(Box<dyn SectorCipher>, usize);

impl SectorCipher for Faulty {
    fn encrypt(&self, first: SectorIndex, size: SectorSize, plain: &[u8], cipher: &mut [u8]) -> Result<()> {
        self.0.encrypt(first, size, plain, cipher)?;
        *cipher.last_mut().unwrap() ^= u8::from(self.1 == 0);
        Ok(())
    }

    fn encrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        self.0.encrypt_in_place(first, size, data)?;
        *data.last_mut().unwrap() ^= u8::from(self.1 == 1);
        Ok(())
    }

    fn decrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        self.0.decrypt_in_place(first, size, data)?;
        *data.last_mut().unwrap() ^= u8::from(self.1 == 2);
        Ok(())
    }
}

/// Gives right bytes except that all sectors have the first one's tweak.
struct OneTweak(Box<dyn SectorCipher>);

impl SectorCipher for OneTweak {
    fn encrypt(&self, first: SectorIndex, size: SectorSize, plain: &[u8], cipher: &mut [u8]) -> Result<()> {
        cipher.copy_from_slice(plain);
        self.encrypt_in_place(first, size, cipher)
    }

    fn encrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        data.chunks_mut(size.in_memory()).try_for_each(|sector| self.0.encrypt_in_place(first, size, sector))
    }

    fn decrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        data.chunks_mut(size.in_memory()).try_for_each(|sector| self.0.decrypt_in_place(first, size, sector))
    }
}

#[test]
fn the_self_test_notices_a_faulty_engine() {
    let good = || Engine::RustCrypto.cipher(&dek(&known_answer::KEY)).unwrap();
    known_answer::check_cipher(&Faulty(good(), 3)).unwrap();
    for call in 0..3 {
        assert!(known_answer::check_cipher(&Faulty(good(), call)).is_err(), "call {call}");
    }
    assert!(known_answer::check_cipher(&OneTweak(good())).is_err());
    let other_key = Engine::AwsLc.cipher(&random::disk_dek().unwrap()).unwrap();
    assert_eq!(known_answer::check_cipher(other_key.as_ref()).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn names_come_back_as_engines() {
    for engine in Engine::ALL {
        assert_eq!(engine.to_string().parse::<Engine>().unwrap(), engine);
    }
    assert!(Engine::available().any(|engine| engine == Engine::default()));
    for wrong in ["", "AWS-LC", "aws_lc", "openssl"] {
        assert_eq!(wrong.parse::<Engine>().unwrap_err().kind(), Kind::Invalid, "{wrong:?}");
    }
}

#[test]
fn keys_that_are_no_disk_deks_are_refused() {
    for engine in Engine::available() {
        let error = engine.cipher(&dek(&[1; 32])).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{engine}");
    }
}

#[test]
fn wrong_lengths_are_refused_and_nothing_is_touched() {
    for engine in Engine::available() {
        let cipher = engine.cipher(&random::disk_dek().unwrap()).unwrap();
        for size in [SectorSize::SMALL, SectorSize::DEFAULT] {
            for len in (0..100).chain(500..530).chain(4090..4110) {
                let mut data = vec![7; len];
                let mut target = vec![9; len];
                let invalid = |result: Result<()>| result.is_err_and(|error| error.kind() == Kind::Invalid);
                if len % 16 != 0 {
                    assert!(invalid(cipher.encrypt_in_place(SectorIndex(3), size, &mut data)), "{engine} {len}");
                    assert!(invalid(cipher.decrypt_in_place(SectorIndex(3), size, &mut data)), "{engine} {len}");
                    assert!(invalid(cipher.encrypt(SectorIndex(3), size, &data, &mut target)), "{engine} {len}");
                }
                let longer = vec![7; len + 16];
                assert!(invalid(cipher.encrypt(SectorIndex(3), size, &longer, &mut target)), "{engine} {len}");
                assert!(data.iter().all(|&byte| byte == 7) && target.iter().all(|&byte| byte == 9));
            }
            cipher.encrypt_in_place(SectorIndex(3), size, &mut []).unwrap();
            cipher.encrypt(SectorIndex(3), size, &[], &mut []).unwrap();
        }
    }
}

#[test]
fn a_sector_may_be_encrypted_in_parts_at_their_places() {
    // What the sector store relies on: only the place decides a block's tweak, not what is around it.
    for engine in Engine::available() {
        let cipher = engine.cipher(&random::disk_dek().unwrap()).unwrap();
        let plain: Vec<u8> = (0..=250).cycle().take(4096).collect();
        let mut whole = plain.clone();
        cipher.encrypt_in_place(SectorIndex(77), SectorSize::DEFAULT, &mut whole).unwrap();
        for unit in (0..4096).step_by(512) {
            let mut scratch = vec![0; 4096];
            scratch[unit..unit + 512].copy_from_slice(&plain[unit..unit + 512]);
            cipher.encrypt_in_place(SectorIndex(77), SectorSize::DEFAULT, &mut scratch).unwrap();
            assert_eq!(scratch[unit..unit + 512], whole[unit..unit + 512], "{engine} {unit}");
        }
    }
}

#[test]
fn threads_share_one_cipher() {
    const THREADS: u64 = 24; // more than there are places for contexts
    for engine in Engine::available() {
        let cipher = engine.cipher(&random::disk_dek().unwrap()).unwrap();
        let cipher = cipher.as_ref();
        let work = |thread: u64| {
            for round in 0..40 {
                let first = SectorIndex(thread * 1000 + round);
                let plain: Vec<u8> = (0..=255).cycle().skip(usize::try_from(thread).unwrap()).take(1536).collect();
                let mut data = plain.clone();
                cipher.encrypt_in_place(first, SectorSize::SMALL, &mut data).unwrap();
                let mut again = vec![0; plain.len()];
                cipher.encrypt(first, SectorSize::SMALL, &plain, &mut again).unwrap();
                assert!(data == again && data != plain);
                cipher.decrypt_in_place(first, SectorSize::SMALL, &mut data).unwrap();
                assert!(data == plain, "{engine} thread {thread} round {round}");
            }
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || work(thread));
            }
        });
    }
}

/// First sectors of every magnitude, and the very last ones.
fn first_sector() -> impl Strategy<Value = SectorIndex> {
    prop_oneof![
        0..1000_u64,
        any::<u64>(),
        (0..70_u64).prop_map(|below| u64::MAX - below),
        (0..64_u32).prop_map(|bit| 1 << bit)
    ]
    .prop_map(SectorIndex)
}

/// Multiples of 16 bytes, up to some sectors of either size.
fn plain_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![0..70_usize, 250..262_usize, 0..1300_usize]
        .prop_flat_map(|blocks| prop::collection::vec(any::<u8>(), blocks * 16))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn engines_agree_and_decrypting_gives_back(
        key in prop::collection::vec(any::<u8>(), 64),
        first in first_sector(),
        size in prop_oneof![Just(SectorSize::SMALL), Just(SectorSize::DEFAULT)],
        plain in plain_bytes(),
    ) {
        prop_assume!(key[..32] != key[32..]);
        let mut ciphertexts = Vec::new();
        for engine in Engine::available() {
            let cipher = engine.cipher(&dek(&key)).unwrap();
            let mut data = plain.clone();
            cipher.encrypt_in_place(first, size, &mut data).unwrap();
            let mut target = vec![0; plain.len()];
            cipher.encrypt(first, size, &plain, &mut target).unwrap();
            prop_assert!(data == target, "{} encrypts otherwise in place", engine);
            cipher.decrypt_in_place(first, size, &mut data).unwrap();
            prop_assert!(data == plain, "{} does not decrypt what it encrypted", engine);
            ciphertexts.push(target);
        }
        prop_assert!(ciphertexts.windows(2).all(|two| two[0] == two[1]), "the engines differ");
    }

    #[test]
    fn sectors_do_not_depend_on_each_other(
        first in 0..u64::MAX - 100,
        size in prop_oneof![Just(SectorSize::SMALL), Just(SectorSize::DEFAULT)],
        plain in plain_bytes(),
    ) {
        for engine in Engine::available() {
            let cipher = engine.cipher(&dek(&known_answer::KEY)).unwrap();
            let mut whole = plain.clone();
            cipher.encrypt_in_place(SectorIndex(first), size, &mut whole).unwrap();
            let mut single = plain.clone();
            for (index, sector) in (first..).zip(single.chunks_mut(size.in_memory())) {
                cipher.encrypt_in_place(SectorIndex(index), size, sector).unwrap();
            }
            prop_assert!(whole == single, "{}", engine);
        }
    }
}
