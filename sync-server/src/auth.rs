//! Who calls, and what they may do. Credentials and names in, verdicts out. The rules may change
//! while somebody is being served: a [`Caller`] is always judged by those in force. Without any
//! way to tell callers apart everybody may do everything: that is for loopback development, and
//! the server says so when it starts.
//!
//! ```text
//!   credentials ──Rules::identify──► principal ──Policy::rights──► rights ──► may read, write, …
//!        ▲                               ▲
//!        └── kept by the Caller          └── judged anew whenever the rules are exchanged
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use sync_proto::types::{CollectionName, Mutation, Op};
use tokio::sync::{Notify, watch};

use self::chain::{Authority, Chain};
use self::jwt::{JwtRules, NotGood, Verified};
use self::keys::KeySet;
use self::policy::{Policy, Rights, Verb};
use self::principal::{Credentials, Principal, Via, check_subject};
use self::quotas::Quota;
use self::stored::StoredQuota;
use self::tokens::{Token, TokenHash};

pub mod chain;
pub mod jwt;
pub mod keys;
pub mod methods;
pub mod pattern;
pub mod policy;
pub mod principal;
pub mod quotas;
pub mod stored;
pub mod tokens;

#[cfg(test)]
mod tests;

pub use self::tokens::{BadToken, TokenConfig};

/// How often the clock is looked at while a proof has not ended: it may be set meanwhile.
const CLOCK_PAUSE: Duration = Duration::from_secs(5);

/// Everything that callers are judged by. Never changed, only exchanged as a whole.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// There is a way to tell callers apart, so nobody is let in without.
    pub(crate) guarded: bool,
    /// The tokens of the configuration.
    pub(crate) tokens: HashMap<TokenHash, Token>,
    /// The policy file.
    pub(crate) policy: Policy,
    /// How signed tokens are judged; `None` = there are none.
    pub(crate) jwt: Option<SignedTokens>,
    /// Who says who clients with certificates are; `None` = nobody.
    pub(crate) authority: Option<Authority>,
}

/// How signed tokens are judged.
#[derive(Debug, Clone)]
pub(crate) struct SignedTokens {
    pub(crate) rules: JwtRules,
    /// `None`: they have not been fetched yet.
    pub(crate) keys: Option<KeySet>,
}

/// The rules in force. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    rules: watch::Receiver<Arc<Rules>>,
    /// Told when a token names a key that is not known.
    unknown_keys: Arc<Notify>,
}

/// The only way to change the rules in force.
#[derive(Debug)]
pub struct AccessControl {
    rules: watch::Sender<Arc<Rules>>,
    /// Told when a token names a key that is not known.
    pub(crate) unknown_keys: Arc<Notify>,
}

/// Somebody who was let in. Cheap to clone; clones are judged together.
#[derive(Clone)]
pub struct Caller(Arc<Inner>);

struct Inner {
    access: Access,
    credentials: Credentials,
    subject: String,
    standing: Mutex<Standing>,
}

/// The last verdict, and the rules that it goes by.
struct Standing {
    rules: Arc<Rules>,
    verdict: Result<Known, AccessError>,
}

struct Known {
    rights: Arc<Rights>,
    until: Option<SystemTime>,
}

/// Why somebody was not let in, or may not do this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No credentials, or none that are known.
    #[error("credentials that this server knows are needed")]
    Unauthenticated,
    /// They are signed by a key that this server does not know, or not yet.
    #[error("credentials that this server knows are needed")]
    UnknownKey,
    /// They are signed, and this server has not got the keys yet.
    #[error("the keys that verify credentials have not been fetched yet")]
    NotReady,
    /// They were good, and their time is over.
    #[error("the credentials have expired")]
    Expired,
    /// The rights do not cover this. Says nothing about what exists.
    #[error("not allowed")]
    Denied,
}

// === impl Rules ===

impl Rules {
    /// Those of tokens alone; none = everybody may do everything.
    pub fn of_tokens(tokens: &[TokenConfig]) -> Result<Self, BadToken> {
        let known = tokens::check(tokens)?;
        Ok(Self { guarded: !known.is_empty(), tokens: known, ..Self::default() })
    }

    /// Who shows this, and what that one may do.
    pub fn identify(
        &self,
        shown: &Credentials,
        now: SystemTime,
    ) -> Result<(Principal, Rights), AccessError> {
        if !self.guarded {
            return Ok((Principal::anybody(), Rights::Everything));
        }
        match (&shown.authorization, &shown.certificates) {
            // Credentials that are shown and not good are no reason to look for others.
            (Some(_), _) => {
                self.of_bearer(shown.bearer().ok_or(AccessError::Unauthenticated)?, now)
            }
            (None, Some(chain)) => self.admit(self.of_chain(chain, now)?, None, None, now),
            (None, None) => Err(AccessError::Unauthenticated),
        }
    }

    fn of_bearer(&self, bearer: &str, now: SystemTime) -> Result<(Principal, Rights), AccessError> {
        let hash = tokens::hash(bearer);
        if let Some(token) = self.tokens.get(&hash).or_else(|| self.policy.tokens.get(&hash)) {
            let subject = token.subject.clone();
            let principal = Principal { subject, groups: Vec::new(), via: Via::Token, until: None };
            return self.admit(principal, Some(token), None, now);
        }
        let signed = self.jwt.as_ref().ok_or(AccessError::Unauthenticated)?;
        let keys = signed.keys.as_ref().ok_or(AccessError::NotReady)?;
        let verified = jwt::verify(bearer, keys, &signed.rules, now);
        let Verified { principal, id } = verified.map_err(|why| {
            tracing::debug!(?why, "a signed token is not good");
            match why {
                NotGood::Expired => AccessError::Expired,
                NotGood::UnknownKey => AccessError::UnknownKey,
                NotGood::Malformed
                | NotGood::Header
                | NotGood::Forged
                | NotGood::Claims
                | NotGood::Audience
                | NotGood::Issuer
                | NotGood::NotYet => AccessError::Unauthenticated,
            }
        })?;
        self.admit(principal, None, id.as_deref(), now)
    }

    fn of_chain(&self, chain: &Chain, now: SystemTime) -> Result<Principal, AccessError> {
        let authority = self.authority.as_ref().ok_or(AccessError::Unauthenticated)?;
        if !chain.is_trusted_by(authority, now) {
            return Err(AccessError::Unauthenticated);
        }
        let (via, until) = (Via::Certificate, Some(chain.until()));
        let mut known = chain.names().filter_map(|name| self.policy.identity(name));
        let (subject, groups) = match (known.next(), chain.only_name()) {
            (Some(first), _) if known.all(|other| other == first) => {
                (first.subject.clone(), first.groups.clone())
            }
            (None, Some(name)) => (name.to_owned(), Vec::new()),
            // More than one name, or none, does not say who it is.
            (Some(_), _) | (None, None) => return Err(AccessError::Unauthenticated),
        };
        check_subject(&subject).map_err(|_| AccessError::Unauthenticated)?;
        Ok(Principal { subject, groups, via, until })
    }

    fn admit(
        &self,
        principal: Principal,
        token: Option<&Token>,
        token_id: Option<&str>,
        now: SystemTime,
    ) -> Result<(Principal, Rights), AccessError> {
        if self.policy.is_revoked(&principal.subject, token_id) {
            return Err(AccessError::Unauthenticated);
        }
        if principal.until.is_some_and(|until| until <= now) {
            return Err(AccessError::Expired);
        }
        let rights = self.policy.rights(&principal, token.map(|token| &token.grant));
        Ok((principal, rights))
    }
}

// === impl Access ===

impl Access {
    /// The rules, and what changes them.
    #[must_use]
    pub fn new(rules: Rules) -> (Self, AccessControl) {
        let (sender, receiver) = watch::channel(Arc::new(rules));
        let unknown_keys = Arc::<Notify>::default();
        let control = AccessControl { rules: sender, unknown_keys: Arc::clone(&unknown_keys) };
        (Self { rules: receiver, unknown_keys }, control)
    }

    /// Whether everybody may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.rules.borrow().guarded
    }

    /// Who shows these credentials.
    pub fn identify(&self, credentials: Credentials) -> Result<Caller, AccessError> {
        let rules = Arc::clone(&self.rules.borrow());
        let found = rules.identify(&credentials, SystemTime::now());
        if matches!(found, Err(AccessError::UnknownKey)) {
            self.unknown_keys.notify_one();
        }
        let (principal, rights) = found?;
        let verdict = Ok(Known { rights: Arc::new(rights), until: principal.until });
        Ok(Caller(Arc::new(Inner {
            access: self.clone(),
            credentials,
            subject: principal.subject,
            standing: Mutex::new(Standing { rules, verdict }),
        })))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("open", &self.is_open()).finish()
    }
}

// === impl AccessControl ===

impl AccessControl {
    /// Exchanges the rules: everybody is judged by the new ones from now on.
    pub fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.rules.send_modify(|rules| {
            let mut changed = Rules::clone(rules);
            change(&mut changed);
            *rules = Arc::new(changed);
        });
    }
}

// === impl Caller ===

impl Caller {
    /// What the names of all collections begin with that it may read now, see [`Rights::stems`].
    #[must_use]
    pub fn readable_stems(&self) -> Vec<String> {
        self.rights().map_or_else(|_| Vec::new(), |rights| rights.stems(Verb::Read))
    }

    /// Whether the collection may be read.
    #[must_use]
    pub fn may_read(&self, name: &CollectionName) -> bool {
        self.may(Verb::Read, name)
    }

    /// Whether the collection may be written.
    #[must_use]
    pub fn may_write(&self, name: &CollectionName) -> bool {
        self.may(Verb::Write, name)
    }

    /// Whether a commit may do this: write what it writes; or follow, and be the one who follows.
    #[must_use]
    pub fn may_change(&self, mutation: &Mutation) -> bool {
        let follows = match &mutation.op {
            Op::Follow { subject } | Op::Unfollow { subject } => {
                subject.as_str() == self.subject() && self.may(Verb::Follow, &mutation.collection)
            }
            Op::Put { .. } | Op::Delete { .. } | Op::Reorder { .. } => false,
        };
        follows || self.may_write(&mutation.collection)
    }

    /// Whether the collection may be administered.
    #[must_use]
    pub fn may_administer(&self, name: &CollectionName) -> bool {
        self.may(Verb::Admin, name)
    }

    /// What the policy says of how much the caller may write in a second.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.rights().map(|rights| rights.quota()).unwrap_or_default()
    }

    /// What the policy says of how much may be stored where, whoever writes it.
    #[must_use]
    pub fn stored_quotas(&self) -> Arc<[StoredQuota]> {
        Arc::clone(&self.0.access.rules.borrow().policy.stored)
    }

    /// Keeps retries of one caller from meeting those of another under the same key.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// What the caller may do now; an error if it is nobody any more.
    pub fn rights(&self) -> Result<Arc<Rights>, AccessError> {
        let now = SystemTime::now();
        let rules = Arc::clone(&self.0.access.rules.borrow());
        let mut standing = self.0.standing.lock();
        if !Arc::ptr_eq(&standing.rules, &rules) {
            standing.verdict = self.judge(&rules, now);
            standing.rules = rules;
        }
        match &standing.verdict {
            Ok(known) if known.until.is_some_and(|until| until <= now) => Err(AccessError::Expired),
            Ok(known) => Ok(Arc::clone(&known.rights)),
            Err(error) => Err(*error),
        }
    }

    /// Waits until what the caller may do may have changed, from the rules in `seen` on.
    pub async fn moved(&self, seen: &mut RulesSeen) {
        tokio::select! {
            biased;
            () = seen.exchanged() => {}
            () = self.expired() => {}
        }
    }

    /// Waits until the caller is nobody any more, and says why.
    pub async fn ended(&self) -> AccessError {
        self.loses(|_| true).await
    }

    /// Waits until the caller has not got what it `needs` any more, and says why.
    pub async fn loses(&self, needs: impl Fn(&Rights) -> bool) -> AccessError {
        let mut seen = self.seen();
        loop {
            match self.rights() {
                Ok(rights) if needs(&rights) => self.moved(&mut seen).await,
                Ok(_) => return AccessError::Denied,
                Err(error) => return error,
            }
        }
    }

    /// The rules that are in force now, for [`Caller::moved`].
    #[must_use]
    pub fn seen(&self) -> RulesSeen {
        let mut rules = self.0.access.rules.clone();
        rules.mark_unchanged();
        RulesSeen(rules)
    }

    fn may(&self, verb: Verb, name: &CollectionName) -> bool {
        self.rights().is_ok_and(|rights| rights.allows(verb, name))
    }

    fn judge(&self, rules: &Rules, now: SystemTime) -> Result<Known, AccessError> {
        let (principal, rights) = rules.identify(&self.0.credentials, now)?;
        // What was begun under one name does not go on under another.
        if principal.subject != self.0.subject {
            return Err(AccessError::Unauthenticated);
        }
        Ok(Known { rights: Arc::new(rights), until: principal.until })
    }

    async fn expired(&self) {
        loop {
            let until = self.0.standing.lock().verdict.as_ref().ok().and_then(|known| known.until);
            let Some(until) = until else { return std::future::pending().await };
            let Ok(left) = until.duration_since(SystemTime::now()) else { return };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(CLOCK_PAUSE)).await;
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

/// Rules that were looked at.
#[derive(Clone)]
pub struct RulesSeen(watch::Receiver<Arc<Rules>>);

// === impl RulesSeen ===

impl RulesSeen {
    /// Whether the rules were exchanged since they were last looked at; they are looked at now.
    pub fn take_exchanged(&mut self) -> bool {
        let exchanged = self.0.has_changed().unwrap_or(false);
        // Only then: another exchange in between would count as looked at by whoever was told of none.
        if exchanged {
            self.0.mark_unchanged();
        }
        exchanged
    }

    async fn exchanged(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could change them.
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for RulesSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RulesSeen").finish_non_exhaustive()
    }
}

// === impl Principal ===

impl Principal {
    /// Whoever it is, where nobody is asked.
    pub(crate) fn anybody() -> Self {
        Self { subject: String::new(), groups: Vec::new(), via: Via::Token, until: None }
    }
}
