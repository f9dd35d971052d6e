//! The daemons of hosts that share key providers. What they share with the program of mounts is in the crate `vmcryptfs`; what
//! that program must not be linked with is here.

#![forbid(unsafe_code)]

pub mod agent;
pub mod authority;
pub mod board;
mod notify;
pub mod tpm;
pub mod trust_wire;
