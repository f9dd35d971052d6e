//! How a cluster begins, and how a host comes into one.

use std::fs::File;
use std::path::Path;
use std::slice::from_ref;
use std::time::Duration;

use uuid::Uuid;

use super::board::{self, Key};
use super::host::{HostFiles, Identity, Membership};
use super::view::{self, View};
use super::{Exchanged, Session, Standing};
use crate::crypto::random;
use crate::crypto::sign::SigningKey;
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{
    Document, JoinRequest, Member, MemberState, Name, Removal, Token, TokenId, UnverifiedDocument, UnverifiedRequest,
};
use crate::timestamp::Timestamp;

/// How long a token is good for.
pub const TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);

/// A cluster that is to be made.
pub struct NewCluster<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Name of this host, its first member.
    pub host: &'a Name,
    /// Where its board is.
    pub board: &'a str,
    /// Configuration file.
    pub config: &'a Path,
}

impl NewCluster<'_> {
    /// Checks all that can be checked before anything is made.
    ///
    /// # Errors
    /// `Exists` when this host is in a cluster, and those of [`board::check`].
    pub fn check(&self) -> Result<()> {
        free_host(self.config)?;
        board::check(self.board, self.config)
    }

    /// Makes the cluster with this host in it. Returns its UUID and that of the host.
    ///
    /// # Errors
    /// `Exists` when this host is in a cluster, and those of the board.
    pub fn create(&self, admin: &SigningKey) -> Result<(Uuid, Uuid)> {
        let (files, _lock) = free_host(self.config)?;
        let (identity, cluster) = (Identity::generate()?, random::uuid()?);
        let host = identity.public(self.host.clone());
        let document = Document {
            epoch: 1,
            cluster,
            previous: [0; 32],
            name: self.name.clone(),
            threshold: 1,
            admins: vec![admin.public()],
            admins_since: 0,
            resumed: 0,
            members: vec![Member {
                host,
                state: MemberState::Active,
                since: 1,
                token: TokenId::default(),
                removal: Removal::default(),
            }],
            providers: Vec::new(),
            pushed: Vec::new(),
        };
        let bytes = document.sign(from_ref(admin))?;
        let hash = UnverifiedDocument::decode(&bytes)?.hash();
        board::create(self.board, cluster, self.config)?.write_if_unchanged(&Key::document(1), None, &bytes)?;
        files.keep_identity(&identity)?;
        let mut membership = Membership::new(cluster, (self.name, self.host), self.board, 1, &hash);
        files.keep_seen(&mut membership, &View { document, hash, bytes })?;
        Ok((cluster, identity.uuid))
    }
}

/// The files of a host that is in no cluster, locked. One that asked to join and was not approved is in none; one that was
/// removed is in none once it has wiped its keys, which it does here.
fn free_host(config: &Path) -> Result<(HostFiles, File)> {
    let files = HostFiles::of(config);
    let before = files.membership()?;
    if before.is_some() {
        leave(config)?;
    }
    let lock = files.lock()?;
    let same = |now: &Membership| before.as_ref().is_some_and(|before| before.cluster == now.cluster);
    match files.membership()? {
        Some(now) if !same(&now) => {
            Err(Error::new(Kind::Busy, format!("this host has just come into the cluster {}", now.cluster_name)))
        }
        _ => Ok((files, lock)),
    }
}

fn leave(config: &Path) -> Result<()> {
    let session = Session::open(config)?;
    if let Some(Member { state: MemberState::Active, host, .. }) = session.own() {
        let message = format!("this host is in the cluster {} already, as {}", session.document().name, host.name);
        return Err(Error::new(Kind::Exists, message));
    }
    if session.standing() == Standing::Removed && !session.has_wiped() {
        drop(session); // an agent waits for it
        let done = match Exchanged::by_agent(config).context(|| "having the agent wipe its keys".into())? {
            Some(done) => done,
            None => Session::open(config)?.exchange(),
        };
        if let Some((provider, error)) = done.failed.into_iter().next() {
            return Err(error).context(|| format!("wiping the key of provider {provider}, as this host was removed"));
        }
        if let Some(error) = done.unsaid {
            return Err(error);
        }
    }
    Ok(())
}

impl Session {
    /// A token for one host, which ends soon.
    ///
    /// # Errors
    /// `Denied` when the key is not an admin's.
    pub fn token(&self, admins: &[SigningKey]) -> Result<Token> {
        let document = self.document();
        let admin = admins.iter().find(|admin| document.admins.contains(&admin.public()));
        let admin = admin.ok_or_else(|| {
            Error::new(Kind::Denied, format!("this admin key is not one of the cluster {}", document.name))
        })?;
        let mut id = TokenId::default();
        random::fill(&mut id.0)?;
        let expires = Timestamp::from_secs((Timestamp::now().since_1970() + TOKEN_LIFE).as_secs());
        Ok(Token {
            cluster: document.cluster,
            epoch: document.epoch,
            document: self.view.hash,
            id,
            expires,
            secret: id.secret(admin, document.cluster, expires)?,
            board: self.board_place().to_owned(),
        })
    }
}

/// Asks with a token to become a member. Returns the name of the cluster, and the UUID of this host.
///
/// # Errors
/// `Exists` when this host is in a cluster, or the cluster has a host of that name; `Denied` when the board does not have the
/// document that the token names, or the token was used.
pub fn ask(config: &Path, token: &Token, host: &Name) -> Result<(Name, Uuid)> {
    let (files, _lock) = free_host(config)?;
    let board = board::open(&token.board, token.cluster, config)?;
    let view = view::newest(board.as_ref(), token.epoch, &token.document, None)?;
    let document = &view.document;
    check_new(document, token.id, host)?;
    let used = || Error::new(Kind::Denied, "the token was used already: ask an admin for another one");
    if let Some(bytes) = board.read(&Key::join(token.id))? {
        let own = asked_by_this_host(&files, &bytes, token, host).ok_or_else(used)?;
        return Ok((document.name.clone(), own));
    }
    let identity = Identity::generate()?;
    let request = JoinRequest {
        cluster: token.cluster,
        token: token.id,
        expires: token.expires,
        host: identity.public(host.clone()),
    };
    files.keep_identity(&identity)?;
    let names = (&document.name, host);
    let mut membership = Membership::new(token.cluster, names, &token.board, document.epoch, &view.hash);
    files.keep_seen(&mut membership, &view)?;
    if !board.write_if_unchanged(&Key::join(token.id), None, &request.encode(&token.secret)?)? {
        return Err(used());
    }
    Ok((document.name.clone(), identity.uuid))
}

/// The UUID of this host if the request is its own. A run that was stopped when it had asked has done all, and the keys in
/// its request must not be replaced.
fn asked_by_this_host(files: &HostFiles, request: &[u8], token: &Token, host: &Name) -> Option<Uuid> {
    let request = UnverifiedRequest::decode(request).ok().filter(|request| request.is_by(&token.secret))?;
    let identity = files.identity().ok()?;
    (request.claims().host == identity.public(host.clone())).then_some(identity.uuid)
}

/// Refuses what a document has already: a token that let a host in, and the name of an active host.
pub(super) fn check_new(document: &Document, token: TokenId, host: &Name) -> Result<()> {
    if let Some(used) = document.members.iter().find(|member| member.token == token) {
        let message = format!("the token was used already, by host {}: ask an admin for another one", used.host.name);
        return Err(Error::new(Kind::Denied, message));
    }
    match document.active().any(|member| member.host.name == *host) {
        true => Err(Error::new(
            Kind::Exists,
            format!("the cluster {} has a host of the name {host}: choose another with --name", document.name),
        )),
        false => Ok(()),
    }
}
