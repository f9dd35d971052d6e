//! The trust authority: attests hosts by their TPMs, and releases keys to them only.

pub mod log;
