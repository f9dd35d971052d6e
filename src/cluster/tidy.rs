//! What the newest document makes useless goes from the board.

use super::Session;
use crate::error::Result;
use crate::format::cluster::MemberState;

/// Most records of a kind that are looked at.
const MAX_LISTED: usize = 65_536;

impl Session {
    /// Removes envelopes, wants and KEKs of hosts that were removed, envelopes of generations that are retired, requests to join that were
    /// granted, and what writers that died have left. What the document does not know stays: another host may know a newer one.
    ///
    /// What stays is useless and harms nobody, and each exchange tries again. So trouble with it is no error: it would hide that a
    /// document was written. A board that takes nothing is told of by the acknowledgement.
    pub(super) fn tidy(&self) {
        let _ = self.try_to_tidy();
    }

    fn try_to_tidy(&self) -> Result<()> {
        let document = self.document();
        let removed = document.members.iter().filter(|member| member.state == MemberState::Removed);
        let removed: Vec<String> = removed.map(|member| member.host.uuid.to_string()).collect();
        let generations = document.providers.iter().flat_map(|shared| &shared.generations);
        let retired = generations.filter(|generation| generation.retired.is_some());
        let retired: Vec<String> = retired.map(|generation| generation.primary.to_string()).collect();
        for key in self.board.list("envelope", MAX_LISTED)? {
            let mut parts = key.as_str().rsplit('/');
            let is_among =
                |names: &[String], part: Option<&str>| part.is_some_and(|part| names.iter().any(|name| name == part));
            if is_among(&removed, parts.next()) || is_among(&retired, parts.next()) {
                self.board.remove(&key)?;
            }
        }
        for under in ["want", "kek"].into_iter().filter(|_| !document.pushed.is_empty()) {
            for key in self.board.list(under, MAX_LISTED)? {
                if key.as_str().split('/').nth(2).is_some_and(|host| removed.iter().any(|removed| removed == host)) {
                    self.board.remove(&key)?;
                }
            }
        }
        for key in self.board.list("join", MAX_LISTED)? {
            if key.token().is_some_and(|token| document.members.iter().any(|member| member.token == token)) {
                self.board.remove(&key)?;
            }
        }
        self.board.clean()
    }
}
