//! What admins change: hosts are approved, providers are shared.

use uuid::Uuid;

use super::Session;
use super::board::Key;
use super::join::check_new;
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{
    Generation, HostIdentity, JoinRequest, Member, MemberState, Removal, SharedProvider, UnverifiedRequest,
};
use crate::key::ProviderName;
use crate::provider::shared_key::SharedKey;
use crate::timestamp::Timestamp;

/// Most join requests that are looked at.
const MAX_REQUESTS: usize = 1024;

impl Session {
    /// The requests to join that are on the board. Nothing in them is proven.
    ///
    /// # Errors
    /// Those of the board.
    pub fn join_requests(&self) -> Result<Vec<UnverifiedRequest>> {
        let mut requests = Vec::new();
        for token in self.board.list("join", MAX_REQUESTS)?.iter().filter_map(Key::token) {
            let record = self.board.read(&Key::join(token)).ok().flatten();
            // One that is damaged is nobody's request: anyone who reaches the board can leave one.
            requests.extend(record.and_then(|bytes| UnverifiedRequest::decode(&bytes).ok()));
        }
        Ok(requests)
    }

    /// Makes a host a member that asked for it with a token of this admin. `wanted` is its name or its UUID.
    ///
    /// # Errors
    /// `NotFound` when no such host asks, `Exists` when it is a member or its name is taken, `Denied` when its request is not by a token of
    /// this admin or the token has ended or was used, `Invalid` when several hosts of that name ask; `Busy` when another admin was faster.
    pub fn approve(&mut self, admins: &[SigningKey], wanted: &str, now: Timestamp) -> Result<HostIdentity> {
        self.require_active()?;
        let requests = self.join_requests()?;
        let asked = |request: &&UnverifiedRequest| request.claims().host.is_meant_by(wanted);
        // One that was granted stays where the admin's program was stopped before it had tidied.
        let is_granted = |request: &&UnverifiedRequest| {
            let JoinRequest { host, token, .. } = request.claims();
            self.document().active().any(|member| member.host == *host && member.token == *token)
        };
        let mut proven = Vec::new();
        let mut refusal = None;
        for request in requests.iter().filter(asked).filter(|request| !is_granted(request)) {
            match self.prove(admins, request, now) {
                Ok(()) => proven.push(request),
                Err(error) => refusal = Some(error),
            }
        }
        let request = match (proven.as_slice(), refusal) {
            ([request], _) => request.claims(),
            ([], Some(refusal)) => return Err(refusal),
            ([], None) => {
                if let Some(granted) = requests.iter().filter(asked).find(is_granted) {
                    self.tidy();
                    return Ok(granted.claims().host.clone());
                }
                return Err(self.asks_not(wanted, &requests));
            }
            (several, _) => {
                let uuids: Vec<String> = several.iter().map(|request| request.claims().host.uuid.to_string()).collect();
                let message =
                    format!("several hosts {wanted} ask to join: say which by its UUID, {}", uuids.join(" or "));
                return Err(Error::new(Kind::Invalid, message));
            }
        };
        let (host, token) = (request.host.clone(), request.token);
        self.change(admins, |next| {
            next.members.push(Member {
                host: host.clone(),
                state: MemberState::Active,
                since: next.epoch,
                token,
                removal: Removal::default(),
            });
            next.members.sort_by_key(|member| member.host.uuid);
            Ok(())
        })?;
        self.tidy();
        for ended in requests.iter().map(UnverifiedRequest::claims).filter(|request| request.expires < now) {
            // One that stays grants nothing, and goes with the next approval.
            let _ = self.board.remove(&Key::join(ended.token));
        }
        Ok(host)
    }

    /// Says why there is nothing to approve: what the host is, or which hosts ask.
    fn asks_not(&self, wanted: &str, requests: &[UnverifiedRequest]) -> Error {
        let known = |state| {
            let of_state = |member: &&Member| member.state == state && member.host.is_meant_by(wanted);
            self.document().members.iter().rfind(of_state)
        };
        if let Some(member) = known(MemberState::Active) {
            let message = format!(
                "host {} ({}) is a member of the cluster already, since document {}",
                member.host.name, member.host.uuid, member.since
            );
            return Error::new(Kind::Exists, message);
        }
        let names: Vec<&str> = requests.iter().map(|request| request.claims().host.name.as_str()).collect();
        let asking = match names.is_empty() {
            true => {
                "nor does any other: a host asks by `vmcryptfs cluster join`, with a token of `vmcryptfs cluster token --admin-key FILE`"
                    .into()
            }
            false => format!("asking: {}", names.join(", ")),
        };
        let removed =
            known(MemberState::Removed).map(|member| format!(" (it was removed in document {})", member.since));
        let removed = removed.unwrap_or_default();
        Error::new(Kind::NotFound, format!("no host {wanted} asks to join the cluster{removed}; {asking}"))
    }

    fn prove(&self, admins: &[SigningKey], unproven: &UnverifiedRequest, now: Timestamp) -> Result<()> {
        let denied = |message: String| Err(Error::new(Kind::Denied, message));
        let request = unproven.claims();
        let (cluster, name) = (self.membership.cluster, &request.host.name);
        let mut is_by_one = false;
        for admin in admins {
            is_by_one |= unproven.is_by(&request.token.secret(admin, cluster, request.expires)?);
        }
        if request.cluster != cluster || !is_by_one {
            return denied(format!(
                "the request of host {name} is not by a token of this admin: it is forged, or another admin's"
            ));
        }
        if request.expires < now {
            let ended = request.expires.to_millis();
            return denied(format!(
                "the token of host {name} ended at {ended}, and by this host's clock it is {}: if that is right, make another with \
                 `vmcryptfs cluster token --admin-key FILE`",
                now.to_millis()
            ));
        }
        check_new(self.document(), request.token, name)?;
        match self.document().member(request.host.uuid) {
            Some(_) => denied(format!("host {name} has a UUID that the cluster knows already: was its disk cloned?")),
            None => Ok(()),
        }
    }

    /// Shares a native provider of this host with all hosts of the cluster.
    ///
    /// # Errors
    /// `Exists` when the cluster shares one of that name; `Busy` when another admin was faster; those of [`SharedKey::of`].
    pub fn share(&mut self, admins: &[SigningKey], provider: &ProviderName) -> Result<Uuid> {
        self.require_active()?;
        let key = SharedKey::of(&self.config, provider)?;
        if self.document().providers.iter().any(|shared| shared.name == *provider) {
            return Err(Error::new(Kind::Exists, format!("the cluster shares a provider {provider} already")));
        }
        let check = key.check(self.membership.cluster);
        self.change(admins, |next| {
            let generations = vec![Generation { primary: key.uuid(), since: next.epoch, retired: None, check }];
            next.providers.push(SharedProvider { name: provider.clone(), generations });
            next.providers.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(())
        })?;
        Ok(key.uuid())
    }
}
