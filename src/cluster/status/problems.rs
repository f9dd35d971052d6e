//! What an admin of a cluster has to see to.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::{HostState, HostStatus};
use crate::cluster::Session;
use crate::cluster::exposed::names_of;
use crate::cluster::push::keepers;
use crate::cluster::removal::pushed_to;
use crate::format::cluster::{HostIdentity, Member, MemberState, PushedProvider, SharedProvider};
use crate::text::{self, quoted};
use crate::timestamp::Timestamp;

/// What clocks of hosts may differ by without a word.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

pub(super) fn of(session: &Session) -> Vec<String> {
    let document = session.document();
    let now = Timestamp::now();
    let mut problems = Vec::new();
    for member in &document.members {
        problems.extend(of_behind(session, member));
        problems.extend(of_removed(session, member));
        problems.extend(of_compromised(session, member));
        problems.extend(of_pushed(session, member));
        problems.extend(of_clock(session, member, now));
    }
    problems.extend(of_exposed(session));
    problems.extend(document.providers.iter().filter_map(|shared| of_rotation(session, shared)));
    problems.extend(document.pushed.iter().filter_map(|pushed| of_keepers(session, pushed)));
    problems
}

/// A host's name, with its UUID where another one had the same.
fn called(session: &Session, host: &HostIdentity) -> String {
    let same = session.document().members.iter().filter(|member| member.host.name == host.name).count();
    if same > 1 { format!("{} ({})", host.name, host.uuid) } else { host.name.to_string() }
}

fn is_seen_to(session: &Session, host: Uuid) -> bool {
    session.files.seen_to().is_ok_and(|hosts| hosts.contains(&host)) // what cannot be read says nothing against it
}

/// The same, or when it was not known to be compromised.
fn is_removal_seen_to(session: &Session, host: Uuid) -> bool {
    is_seen_to(session, host) || session.files.removal_seen_to().is_ok_and(|hosts| hosts.contains(&host))
}

/// A host that did not act on the newest document yet. A key that it lacks is said with its provider.
fn of_behind(session: &Session, member: &Member) -> Option<String> {
    if member.state != MemberState::Active {
        return None;
    }
    let (name, newest) = (called(session, &member.host), session.document().epoch);
    let why = match session.ack_of(member).ok()? {
        None => "did not say yet that it has acted on a document".to_owned(),
        Some(ack) if ack.epoch < newest => format!("has acted on document {}, and {newest} is the newest", ack.epoch),
        Some(ack) => {
            let has_all =
                |shared: &&SharedProvider| shared.in_use().all(|generation| ack.holds.contains(&generation.primary));
            let providers = &session.document().providers;
            let lacks: Vec<&SharedProvider> = providers.iter().filter(|shared| !has_all(shared)).collect();
            if lacks.is_empty() {
                return None;
            }
            let is_there = |shared: &&SharedProvider| {
                let mut missing = shared.in_use().filter(|generation| !ack.holds.contains(&generation.primary));
                missing.all(|generation| session.is_sealed_to(shared, generation, member.host.uuid))
            };
            let where_from = match lacks.iter().all(is_there) {
                true => "which lie on the board, sealed to it",
                false => "which a host that has them seals to it by `vmcryptfs cluster sync`",
            };
            let names: Vec<&str> = lacks.iter().map(|shared| shared.name.as_str()).collect();
            format!("lacks keys of {}, {where_from}", names.join(", "))
        }
    };
    Some(format!("{name} is behind: it {why}. Run `vmcryptfs cluster sync` there, which says why if it cannot"))
}

fn of_removed(session: &Session, member: &Member) -> Option<String> {
    let host = &member.host;
    if HostStatus::of(session, member).state != HostState::Removed || is_removal_seen_to(session, host.uuid) {
        return None;
    }
    let uuid = host.uuid;
    Some(format!(
        "{} was removed in document {} and did not say since that it wiped its keys: run `vmcryptfs cluster sync` there, which wipes them \
         and says so, or, if its media are destroyed, `vmcryptfs cluster remove {uuid} --presume-destroyed --admin-key FILE`. If the \
         board has lost that it said so, `vmcryptfs cluster status --seen-to {uuid}` on each host that should no longer say it",
        called(session, host),
        member.since
    ))
}

/// Generations that a compromised host could have, until they are retired.
fn of_compromised(session: &Session, member: &Member) -> Option<String> {
    if !member.removal.compromised {
        return None;
    }
    let had = |shared: &&SharedProvider| shared.in_use().any(|generation| generation.since < member.since);
    let names: Vec<&str> = session.document().providers.iter().filter(had).map(|shared| shared.name.as_str()).collect();
    let has_newest = |shared: &&SharedProvider| shared.newest().since < member.since;
    let unrotated: Vec<&str> =
        session.document().providers.iter().filter(has_newest).map(|shared| shared.name.as_str()).collect();
    if !unrotated.is_empty() {
        return Some(format!(
            "{} was compromised, and had the newest keys of {}: {}, on a host that has the key in a file",
            called(session, &member.host),
            unrotated.join(", "),
            for_each(&unrotated, |name| format!("`vmcryptfs cluster rotate {name} --admin-key FILE`"))
        ));
    }
    (!names.is_empty()).then(|| {
        format!(
            "{} was compromised, and former keys of {} that it had are still in use: `vmcryptfs rekey --old-generations --deep \
             DATASTORE` for each datastore, then {}",
            called(session, &member.host),
            names.join(", "),
            for_each(&names, |name| format!("`vmcryptfs cluster retire {name} --datastore DATASTORE --admin-key FILE`"))
        )
    })
}

/// A command for each provider.
fn for_each(names: &[&str], command: impl Fn(&str) -> String) -> String {
    names.iter().map(|name| command(name)).collect::<Vec<_>>().join(" and ")
}

/// Data keys that compromised hosts could read, as this host remembers.
fn of_exposed(session: &Session) -> Option<String> {
    const MAX_NAMED: usize = 3;
    let exposed = match session.exposed(None) {
        Ok(exposed) if exposed.is_empty() => return None,
        Ok(exposed) => exposed,
        Err(error) => return Some(format!("which VMs have data keys that others may know: {}", error.chain())),
    };
    let vms: BTreeSet<&Path> = exposed.iter().map(|one| one.vm.as_path()).collect();
    let commands = vms.iter().take(MAX_NAMED).map(|vm| format!("`vmcryptfs rekey --deep {}`", quoted(vm)));
    let commands = commands.collect::<Vec<_>>().join(", ");
    let more = if vms.len() > MAX_NAMED { format!(" and {} more", vms.len() - MAX_NAMED) } else { String::new() };
    let hosts = exposed.iter().flat_map(|one| &one.hosts).copied().collect();
    Some(format!(
        "{} data keys that {} could read before being removed: {commands}{more}",
        text::count(vms.len(), "VM has", "VMs have"),
        names_of(session.document(), &hosts)
    ))
}

/// KEKs that keepers could give to a compromised host. The cluster does not know which VMs have other ones since.
fn of_pushed(session: &Session, member: &Member) -> Option<String> {
    let pushed: Vec<&PushedProvider> = pushed_to(session.document(), member).collect();
    if !member.removal.compromised || pushed.is_empty() || is_seen_to(session, member.host.uuid) {
        return None;
    }
    let names = |pushed: &mut dyn Iterator<Item = &&PushedProvider>| {
        pushed.map(|pushed| pushed.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let kept = names(&mut pushed.iter().filter(|pushed| pushed.keepers.contains(&member.host.uuid)));
    let revoke = match kept.is_empty() {
        true => String::new(),
        false => format!("; it was a keeper of {kept}: revoke its credentials at the key server"),
    };
    Some(format!(
        "{} was compromised, and could get the key of each VM of {}: `vmcryptfs rekey --deep VM_FOLDER` for each of them{revoke}. No host can see \
         when that is done: then `vmcryptfs cluster status --seen-to {}` on each host that should no longer say it",
        called(session, &member.host),
        names(&mut pushed.iter()),
        member.host.uuid
    ))
}

/// Tokens end by a clock, and people read times: no key depends on one.
fn of_clock(session: &Session, member: &Member, now: Timestamp) -> Option<String> {
    let ack = session.ack_of(member).ok().flatten()?;
    let ahead = ack.time.since_1970().checked_sub(now.since_1970()).filter(|ahead| *ahead > CLOCK_TOLERANCE)?;
    Some(format!(
        "the clock of {} was {} minutes ahead of this host's when it acknowledged: one of them is wrong",
        called(session, &member.host),
        ahead.as_secs() / 60
    ))
}

/// Keepers that are not ready, and a provider that none is left of.
fn of_keepers(session: &Session, pushed: &PushedProvider) -> Option<String> {
    let document = session.document();
    let is_ready = |host: Uuid| document.member(host).is_some_and(|member| session.says_to_have(member, pushed.uuid));
    let all: Vec<&HostIdentity> = keepers(document, pushed).collect();
    let late: Vec<&str> =
        all.iter().filter(|keeper| !is_ready(keeper.uuid)).map(|keeper| keeper.name.as_str()).collect();
    let name = &pushed.name;
    if all.is_empty() {
        return Some(format!(
            "provider {name} has no keeper: hosts get none of its keys. On a host with the credentials of its key server: `vmcryptfs \
             cluster share {name} --admin-key FILE`"
        ));
    }
    (!late.is_empty()).then(|| {
        format!(
            "{} did not say to be ready as keeper of provider {name}: start vmcryptfs-agent there, and see `vmcryptfs provider test {name}`",
            late.join(", ")
        )
    })
}

fn of_rotation(session: &Session, shared: &SharedProvider) -> Option<String> {
    let newest = shared.newest().primary;
    let lacks = session.document().active().filter(|member| !session.says_to_have(member, newest));
    let lacks: Vec<&str> = lacks.map(|member| member.host.name.as_str()).collect();
    (shared.generations.len() > 1 && !lacks.is_empty()).then(|| {
        let (number, name, lacks) = (shared.generations.len(), &shared.name, lacks.join(", "));
        let so = match shared.in_use().count() {
            1 => "Former ones are retired, so those hosts open nothing of this provider until they have it",
            _ => "New keys are made by a former generation until they have it",
        };
        format!(
            "generation {number} of {name} is not confirmed yet by {lacks}. {so}. Run `vmcryptfs cluster sync` there, which says why if it \
             cannot"
        )
    })
}
