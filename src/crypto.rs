//! Cryptographic primitives, one a file, each named by its standard. No other module names a cipher library.
//!
//! What is secret comes and goes in [`SecretBytes`](crate::sys::SecretBytes); nothing here knows what a header, a disk
//! or a provider is.

pub mod aead;
pub mod cfb;
pub mod derive;
pub mod ecdh;
pub mod hpke;
pub mod passphrase;
pub mod pieces;
pub mod random;
pub mod sign;
pub mod wrap;
pub mod xaes;
pub mod xts;

mod aes_block;
