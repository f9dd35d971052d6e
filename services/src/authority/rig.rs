//! An authority without a port, for tests.

use std::sync::Arc;

use tempfile::TempDir;
use uuid::Uuid;
use vmcryptfs::crypto::hpke::SealKey;
use vmcryptfs::provider::kinds::native::NativeProvider;
use vmcryptfs::provider::primary_key::PrimaryKey;

use super::hosts::HostState;
use super::hosts::tests::record;
use super::own::tests::settings;
use super::token::tests::proved;
use super::*;

const POLICY: &str = "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"kvm*\"]\n\
                      level = \"identity\"\nlearn = [4, 7]\n";

/// An authority with a policy, one approved host, and a token of it.
pub(super) struct Rig {
    pub(super) authority: Authority,
    pub(super) host: Uuid,
    pub(super) token: String,
    _dir: TempDir,
}

impl Rig {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = Own::create(dir.path(), &settings(), |_| Ok(())).unwrap();
        let name = ProviderName::new("top").unwrap();
        let provider = NativeProvider::new(name.clone(), PrimaryKey::generate().unwrap());
        let authority = Authority::with(own, TopKey::new(name, Arc::new(provider))).unwrap();
        authority.policies.approve(POLICY, |_| Ok(())).unwrap();
        let host = record("kvm1", HostState::Approved);
        authority.hosts.add(&host, || Ok(())).unwrap();
        let (token, _) = authority.tokens.make(host.uuid, SealKey::generate().unwrap().public(), proved(1)).unwrap();
        Self { authority, host: host.uuid, token, _dir: dir }
    }
}
