//! The trust authority: attests hosts by their TPMs, and releases keys to them only.

pub mod clock;
pub mod enrolment;
pub mod entry;
pub mod hosts;
pub mod log;
pub mod own;
pub mod release;
pub mod token;
