//! Known answers of AES-256-XTS: IEEE 1619-2007, Annex B, vector 10, and runs of sectors that begin with it.
//!
//! The published vectors have one data unit each. So that a wrong step from tweak to tweak, or a wrong turn for large or
//! short sectors, is noticed too, the runs go over several; their SHA-256 were computed with OpenSSL, sector by sector.

use super::{Engine, SectorCipher};
use crate::crypto::derive;
use crate::error::{Error, Kind, Result};
use crate::key::Dek;
use crate::sector::{SectorIndex, SectorSize};
use crate::sys::SecretBytes;

/// Digits of e and of pi, as the standard has them.
pub(super) const KEY: [u8; 64] = hex(
    "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105\
     820974944592",
);
/// Data unit of vector 10. Its plaintext is the bytes 0 to 255, twice.
const FIRST: SectorIndex = SectorIndex(0xff);
/// Ciphertext of vector 10.
pub(super) const CIPHER_OF_ONE_SECTOR: [u8; 512] = hex(
    "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc33\
     45befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0c5cd4d5fff9dac89aeba122961d03a75\
     7123e9870f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa754\
     21c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec\
     583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f6160\
     15e1327a02b140f1505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b\
     11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac6e333b93eb4aff04\
     79da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385\
     1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70\
     b9c6e693e148c151",
);
/// Sector size, length, and SHA-256 of the ciphertext of the bytes 0 to 255 over and over from sector 255 on.
const RUNS: [(SectorSize, usize, [u8; 32]); 2] = [
    (SectorSize::SMALL, 2 * 512 + 48, hex("633af88a5d5e7625ddbf67484ade7d5b582589d61d1b3914920c22a8f9c1ae5e")),
    (SectorSize::DEFAULT, 2 * 4096 + 48, hex("5e7986bdb0831eec073c3d29c17d86c3d9c55738f2cff7ff025bd860be0dc196")),
];

/// Whether `engine` gives the known answers, in both directions and both ways of encrypting.
pub(super) fn check(engine: Engine) -> Result<()> {
    let mut key = SecretBytes::zeroed(KEY.len());
    key.copy_from_slice(&KEY);
    let cipher = engine.cipher(&Dek::new(key)?)?;
    check_cipher(cipher.as_ref())
}

pub(super) fn check_cipher(cipher: &dyn SectorCipher) -> Result<()> {
    run(cipher, SectorSize::SMALL, CIPHER_OF_ONE_SECTOR.len(), |data| data == CIPHER_OF_ONE_SECTOR)?;
    for (size, len, digest) in RUNS {
        run(cipher, size, len, |data| derive::sha256(data) == digest)?;
    }
    Ok(())
}

fn run(cipher: &dyn SectorCipher, size: SectorSize, len: usize, is_right: impl Fn(&[u8]) -> bool) -> Result<()> {
    let plain: Vec<u8> = (0..=255).cycle().take(len).collect();
    let mut data = vec![0; len];
    cipher.encrypt(FIRST, size, &plain, &mut data)?;
    let mut in_place = plain.clone();
    cipher.encrypt_in_place(FIRST, size, &mut in_place)?;
    let encrypted = is_right(&data) && is_right(&in_place);
    cipher.decrypt_in_place(FIRST, size, &mut data)?;
    if encrypted && data == plain {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("AES-256-XTS of {len} known bytes in sectors of {} gives wrong bytes", size.bytes()),
    ))
}

/// Bytes of hexadecimal digits, at compile time.
const fn hex<const N: usize>(text: &str) -> [u8; N] {
    const fn digit(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => panic!("not a hexadecimal digit"),
        }
    }
    let text = text.as_bytes();
    assert!(text.len() == 2 * N, "two digits a byte");
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = digit(text[2 * at]) << 4 | digit(text[2 * at + 1]);
        at += 1;
    }
    bytes
}
