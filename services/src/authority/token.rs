//! Tokens of hosts that have attested: EAT (RFC 9711) as JWT (RFC 7519), signed with ES256 (RFC 7518).
//!
//! One algorithm, one header: a token whose header differs by a byte is refused before anything else of it is read. The signing key
//! lives in the memory of this process: a restart voids all tokens, and hosts attest again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use data_encoding::BASE64URL_NOPAD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::crypto::hpke;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs_attest::quote::Boot;
use vmcryptfs_attest::verdict::Attested;

use super::clock::Clock;
use super::hosts::{HostRecord, Hosts};
use super::policies::ApprovedPolicy;
use crate::trust_wire::Blob;

/// How long a token is good, in seconds.
pub const LIFE: u64 = 10 * 60;
/// Longest token, in bytes.
const MAX_LEN: usize = 4096;
/// The only header.
const HEADER: &str = r#"{"alg":"ES256","typ":"JWT"}"#;
/// Bytes of a coordinate of P-256.
const COORDINATE: usize = 32;

/// What a token says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// UUID of the authority.
    pub iss: Uuid,
    /// UUID of the host.
    pub sub: Uuid,
    /// When it attested, in seconds since 1970.
    pub iat: u64,
    /// When this ends, in seconds since 1970.
    pub exp: u64,
    /// The token's own name.
    pub jti: Uuid,
    /// The key that KEKs are sealed to.
    pub cnf: Confirmation,
    /// What was proved.
    pub vmcryptfs: Proved,
}

/// A key that a token is bound to (RFC 7800).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    jwk: Jwk,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: String,
    crv: String,
    x: Blob,
    y: Blob,
}

impl Confirmation {
    /// That of an HPKE key.
    pub fn of(public: &[u8; hpke::PUBLIC_LEN]) -> Self {
        let (x, y) = public[1..].split_at(COORDINATE);
        let jwk = Jwk { kty: "EC".into(), crv: "P-256".into(), x: Blob(x.to_vec()), y: Blob(y.to_vec()) };
        Self { jwk }
    }

    /// The HPKE key.
    ///
    /// # Errors
    /// `Corrupt` when it is not one.
    pub fn public(&self) -> Result<[u8; hpke::PUBLIC_LEN]> {
        let point = [&[4], self.jwk.x.0.as_slice(), &self.jwk.y.0].concat();
        let point = point.try_into().ok().filter(|_| self.jwk.x.0.len() == COORDINATE);
        point.ok_or_else(|| Error::new(Kind::Corrupt, "a token whose key is not a point of P-256"))
    }
}

/// What an attestation has proved.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Proved {
    /// The trust level.
    pub level: String,
    /// The policy that was satisfied.
    pub policy: String,
    /// How often the TPM was reset.
    pub resets: u32,
    /// How often it was restarted since.
    pub restarts: u32,
    /// The host's epoch at the authority.
    pub epoch: u64,
    /// Counts the policies that were approved since the authority began.
    pub generation: u64,
}

/// What a token is good by, as it is now: its host's record, and the policy in force.
#[derive(Clone, Copy)]
pub struct Standing<'a> {
    /// The hosts.
    pub hosts: &'a Hosts,
    /// Counts the policies that were approved since the authority began.
    pub generation: &'a AtomicU64,
}

/// Makes tokens and takes them.
pub struct Tokens {
    authority: Uuid,
    key: EcdsaKeyPair,
    clock: Clock,
    /// The boot by which each host attested last.
    boots: Mutex<HashMap<Uuid, Boot>>,
}

/// A host whose token is good now. There is no other way to have one than [`Tokens::admit`].
#[derive(Debug)]
pub struct Admitted {
    claims: Claims,
    public: [u8; hpke::PUBLIC_LEN],
    name: String,
}

impl Admitted {
    /// The host.
    pub fn host(&self) -> Uuid {
        self.claims.sub
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that KEKs are sealed to.
    pub fn public(&self) -> &[u8; hpke::PUBLIC_LEN] {
        &self.public
    }

    /// The token's own name.
    pub fn token(&self) -> Uuid {
        self.claims.jti
    }

    /// Refuses a host that was removed, or approved again, since the token was made; and each token of before another policy was approved.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check(&self, standing: Standing<'_>) -> Result<()> {
        self.claims.host(standing).map(drop)
    }
}

impl Claims {
    /// The host, if it is approved as it was when the token was made, and so is the policy.
    fn host(&self, Standing { hosts, generation }: Standing<'_>) -> Result<HostRecord> {
        let of_epoch = hosts.get(self.sub).ok().filter(|host| host.admits(self.vmcryptfs.epoch));
        let host =
            of_epoch.ok_or_else(|| denied(&format!("is void: host {} was removed, or changed, since", self.sub)))?;
        match self.vmcryptfs.generation == generation.load(Ordering::SeqCst) {
            true => Ok(host),
            false => Err(denied("is void: another policy was approved since")),
        }
    }
}

fn denied(what: &str) -> Error {
    Error::new(Kind::Denied, format!("the token {what}: attest again"))
}

impl Tokens {
    /// With a new key.
    ///
    /// # Errors
    /// `Io` when the generator fails.
    pub fn new(authority: Uuid, clock: Clock) -> Result<Self> {
        let failed = |error| Error::with_source(Kind::Io, "making a key for tokens", error);
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        Ok(Self { authority, key, clock, boots: Mutex::default() })
    }

    /// The token of a host that has attested by this policy, in this epoch of its record.
    ///
    /// # Errors
    /// `Invalid` when its HPKE key is not a point of P-256, `Io` when the generator fails.
    pub(super) fn issue(&self, attested: &Attested, policy: &ApprovedPolicy, epoch: u64) -> Result<(String, Claims)> {
        let public = attested.quoted().hpke_key();
        let len = public.len();
        let public = public.try_into().map_err(|error| {
            let found = format!("an HPKE key of {len} bytes, expected {}", hpke::PUBLIC_LEN);
            Error::with_source(Kind::Invalid, found, error)
        })?;
        hpke::seal(public, b"", b"", b"")?; // one to which nothing can be sealed would only be refused later
        let Boot { reset_count: resets, restart_count: restarts } = attested.boot();
        let (level, generation) = (attested.satisfied().level().to_string(), policy.generation);
        let proved = Proved { level, policy: policy.version(), resets, restarts, epoch, generation };
        let host = Uuid::from_bytes(*attested.identity().host().id().as_bytes());
        let made = self.make(host, public, proved)?;
        self.booted(host, attested.boot());
        Ok(made)
    }

    /// From now on, tokens of other boots of a host are void: what it had then is gone, or somebody else's.
    fn booted(&self, host: Uuid, boot: Boot) {
        self.boots.lock().insert(host, boot);
    }

    /// A token of these claims. [`Tokens::issue`] makes them of a verdict.
    pub(super) fn make(&self, host: Uuid, public: &[u8; hpke::PUBLIC_LEN], proved: Proved) -> Result<(String, Claims)> {
        let iat = self.clock.seconds();
        let claims = Claims {
            iss: self.authority,
            sub: host,
            iat,
            exp: iat + LIFE,
            jti: vmcryptfs::crypto::random::uuid()?,
            cnf: Confirmation::of(public),
            vmcryptfs: proved,
        };
        Ok((self.sign(&claims)?, claims))
    }

    fn sign(&self, claims: &Claims) -> Result<String> {
        let json = serde_json::to_vec(claims)
            .map_err(|error| Error::with_source(Kind::Invalid, "a token that has no JSON form", error))?;
        let signed = format!("{}.{}", BASE64URL_NOPAD.encode(HEADER.as_bytes()), BASE64URL_NOPAD.encode(&json));
        let failed = |error| Error::with_source(Kind::Io, "signing a token", error);
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(failed)?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
    }

    /// Takes a token of this authority that has not ended, of a host that is approved as it was then, and of the policy in force.
    ///
    /// # Errors
    /// `Denied`.
    pub fn admit(&self, token: &str, standing: Standing<'_>) -> Result<Admitted> {
        let claims = self.verified(token)?;
        let now = self.clock.seconds();
        if claims.iss != self.authority {
            return Err(denied("is of another authority"));
        }
        if claims.iat > now || claims.exp <= now || claims.exp - claims.iat > LIFE {
            return Err(denied(&format!("has ended {} s ago", now.saturating_sub(claims.exp))));
        }
        let boot = Boot { reset_count: claims.vmcryptfs.resets, restart_count: claims.vmcryptfs.restarts };
        if self.boots.lock().get(&claims.sub).is_some_and(|last| *last != boot) {
            return Err(denied("is void: the host has attested by another boot since"));
        }
        let public = claims.cnf.public()?;
        let name = claims.host(standing)?.name;
        Ok(Admitted { claims, public, name })
    }

    fn verified(&self, token: &str) -> Result<Claims> {
        if token.len() > MAX_LEN {
            return Err(denied(&format!("has {} bytes, expected at most {MAX_LEN}", token.len())));
        }
        let parts =
            token.rsplit_once('.').and_then(|(signed, signature)| Some((signed, signature, signed.split_once('.')?)));
        let (signed, signature, (header, body)) = parts.ok_or_else(|| denied("is not a JWT"))?;
        if header != BASE64URL_NOPAD.encode(HEADER.as_bytes()) {
            return Err(denied(&format!("has another header than {HEADER}")));
        }
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| denied("is not base64url"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| denied("was not signed by this authority since it began"))?;
        let json = BASE64URL_NOPAD.decode(body.as_bytes()).ok();
        json.and_then(|json| serde_json::from_slice(&json).ok()).ok_or_else(|| denied("is not understood"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
