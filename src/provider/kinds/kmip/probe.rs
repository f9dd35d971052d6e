//! What an administrator wants to know of each member: whether it does all that VMs need of it.

use std::fmt;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Member};
use super::kek::{NO_RANDOM, is_constant};
use super::message::Version;
use super::session::Session;
use super::{certificate, new_key_name};
use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::provider::{Failure, KeyState, NewKey, Revocation, Trouble};
use crate::text;

/// One member's answers. Steps after a failed one were not tried.
#[derive(Debug, Default)]
pub struct MemberReport {
    /// Name and port.
    pub server: String,
    /// What was agreed on once the member was reached.
    pub tls: Option<String>,
    /// Whole days until the server's certificate ends.
    pub server_certificate_days: Option<i64>,
    /// The versions of KMIP that the server speaks.
    pub versions: Vec<Version>,
    /// The version that is spoken with it.
    pub version: Option<Version>,
    /// Its maker, as it says.
    pub vendor: Option<String>,
    /// Whether it kept the custom attributes of a key; `None` if that could not be seen.
    pub keeps_attributes: Option<bool>,
    /// How long a key's way from creation to destruction took.
    pub round_trip: Option<Duration>,
    /// Why a key's way did not succeed.
    pub failure: Option<Failure>,
}

impl fmt::Display for MemberReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = format!("{}\n", self.server);
        let mut line = |what: &str, text: String| lines += &format!("  {what:18}  {text}\n");
        if let Some(tls) = &self.tls {
            line("reached", format!("yes, {tls}"));
            line("server certificate", ends_in(self.server_certificate_days));
        }
        if let Some(version) = self.version {
            let known: Vec<String> = self.versions.iter().map(ToString::to_string).collect();
            line("KMIP", format!("{version}, of {}", known.join(", ")));
        }
        if let Some(vendor) = &self.vendor {
            line("vendor", vendor.clone());
        }
        if let Some(time) = self.round_trip {
            line("key", format!("made, activated, fetched and destroyed in {} ms", time.as_millis()));
        }
        if let Some(kept) = self.keeps_attributes {
            line(
                "custom attributes",
                if kept { "kept" } else { "not kept: hosts do not see each other's rollbacks" }.into(),
            );
        }
        match &self.failure {
            Some(failure) => line("FAILED", failure.to_string()),
            None => line("works", "yes".into()),
        }
        f.write_str(&lines)
    }
}

/// How long a certificate with this many days left is valid.
pub(super) fn ends_in(days: Option<i64>) -> String {
    match days {
        Some(days) if days < 0 => format!("EXPIRED {} ago", text::count(-days, "day", "days")),
        Some(days) => format!("expires in {}", text::count(days, "day", "days")),
        None => "expiry date unreadable".into(),
    }
}

/// Tries one member. A key is made and destroyed.
pub(super) fn probe(cluster: &Cluster, member: &Member, attributes: &[(String, String)]) -> MemberReport {
    let mut report = MemberReport { server: member.address().to_string(), ..MemberReport::default() };
    if let Err(failure) = probe_into(&mut report, cluster, member, attributes) {
        report.failure = Some(cluster.explained(failure));
    }
    report
}

fn probe_into(
    report: &mut MemberReport,
    cluster: &Cluster,
    member: &Member,
    attributes: &[(String, String)],
) -> Result<(), Failure> {
    let mut session = cluster.probe_session(member)?;
    report.tls = Some(session.tls());
    report.server_certificate_days = session.server_certificate().and_then(|server| certificate::days_left(server));
    report.versions = session.negotiate(cluster.versions())?;
    report.version = Some(session.version());
    report.vendor = session.query_vendor().ok().flatten();
    let start = Instant::now();
    let uid = session.create(&new_key_name()?)?;
    let used = use_key(&mut session, &uid, attributes);
    // Also when that failed: a key without a use should not remain.
    let revoked = session.revoke(&uid, Revocation::Ended);
    let destroyed = session.destroy(&uid);
    report.keeps_attributes = used?;
    report.round_trip = Some(start.elapsed());
    destroyed.map_err(|failure| revoked.err().unwrap_or(failure))
}

/// Whether the key kept its custom attributes.
fn use_key(session: &mut Session, uid: &str, attributes: &[(String, String)]) -> Result<Option<bool>, Failure> {
    session.activate(uid)?;
    let state = session.state(uid)?;
    if state != KeyState::Active {
        return Err(Failure::new(Trouble::State(state), format!("an activated key is {state}")));
    }
    let check = |key| LocalKek::new(key).map_err(Failure::no_kek);
    let (first, second) = (check(session.get(uid)?)?, check(session.get(uid)?)?);
    if first.bytes() != second.bytes() {
        return Err(Failure::no_kek("another key the second time"));
    }
    if is_constant(first.bytes()) {
        return Err(Failure::no_kek(NO_RANDOM));
    }
    match session.add_attributes(uid, attributes) {
        Ok(()) => {}
        Err(failure) if failure.trouble().is_of_server() && !session.is_usable() => return Err(failure),
        Err(_) => return Ok(Some(false)),
    }
    let kept = session.custom_attributes(uid).ok();
    Ok(kept.map(|kept| attributes.iter().all(|(name, value)| kept.get(name) == Some(value))))
}

/// What the key of a probe is for.
pub(super) fn purpose() -> crate::error::Result<NewKey> {
    Ok(NewKey { vm_name: "vmcryptfs provider test".into(), vm_uuid: random::uuid()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_how_far_a_member_came() {
        let unreached = MemberReport { server: "kms1:5696".into(), ..MemberReport::default() };
        assert_eq!(unreached.to_string(), "kms1:5696\n  works               yes\n");
        let reached = MemberReport {
            tls: Some("TLS 1.2".into()),
            server_certificate_days: Some(-3),
            versions: vec!["1.4".parse().unwrap(), "1.2".parse().unwrap()],
            version: "1.2".parse().ok(),
            keeps_attributes: Some(false),
            ..unreached
        };
        assert_eq!(
            reached.to_string(),
            "kms1:5696\n  reached             yes, TLS 1.2\n  server certificate  EXPIRED 3 days ago\n  \
             KMIP                1.2, of 1.4, 1.2\n  custom attributes   not kept: hosts do not see each other's rollbacks\n  \
             works               yes\n"
        );
    }
}
