//! The `kmip` provider: KEKs of a KMIP key server (vSphere: standard key provider).

pub mod tag;
pub mod ttlv;
