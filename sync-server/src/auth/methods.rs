//! Every call that there is, and what it takes to make it. Pure. A call without a line here is not
//! answered, whatever the services offer; a test compares the lines with the protocol's descriptor.

use super::policy::{Rights, Verb};

/// What it takes to make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: load balancers ask.
    Open,
    /// To be somebody: it tells nothing that is anybody's.
    Known,
    /// To be somebody; what it tells or changes is the caller's own, by its subject.
    Own,
    /// The right to each collection that the request names, judged where the names are read.
    Named,
    /// Some right to administer, and, where the names are read, that to the collection.
    Keeping,
    /// The right to administer everything.
    Whole,
}

/// All of them, by path.
pub const METHODS: &[(&str, Rule)] = &[
    ("/deltasync.v1.SyncService/Pull", Rule::Named),
    ("/deltasync.v1.SyncService/Subscribe", Rule::Named),
    ("/deltasync.v1.SyncService/ListItems", Rule::Named),
    ("/deltasync.v1.SyncService/GetItems", Rule::Named),
    ("/deltasync.v1.SyncService/GetCollection", Rule::Named),
    ("/deltasync.v1.SyncService/ListCollections", Rule::Named),
    ("/deltasync.v1.SyncService/Reconcile", Rule::Named),
    ("/deltasync.v1.SyncService/Ack", Rule::Named),
    ("/deltasync.v1.WriteService/Commit", Rule::Named),
    ("/deltasync.v1.WriteService/Import", Rule::Named),
    ("/deltasync.v1.WriteService/GetImport", Rule::Own),
    ("/deltasync.v1.WriteService/DeleteCollection", Rule::Named),
    ("/deltasync.v1.AdminService/InspectCollection", Rule::Keeping),
    ("/deltasync.v1.AdminService/SetPolicy", Rule::Keeping),
    ("/deltasync.v1.AdminService/Purge", Rule::Keeping),
    ("/deltasync.v1.AdminService/RotateEpoch", Rule::Keeping),
    ("/deltasync.v1.AdminService/ListAudience", Rule::Keeping),
    ("/deltasync.v1.AdminService/ListFollows", Rule::Keeping),
    ("/deltasync.v1.AdminService/Backup", Rule::Whole),
    ("/deltasync.v1.AdminService/Verify", Rule::Whole),
    ("/deltasync.v1.AdminService/ListClients", Rule::Whole),
    ("/deltasync.v1.AdminService/ExplainClient", Rule::Whole),
    ("/deltasync.v1.AdminService/Drain", Rule::Whole),
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Known),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Known),
];

/// What it takes to make the call of this path; `None` = there is no such call.
#[must_use]
pub fn rule_of(path: &str) -> Option<Rule> {
    METHODS.iter().find(|(known, _)| *known == path).map(|(_, rule)| *rule)
}

// === impl Rule ===

impl Rule {
    /// Whether the call may begin, judged by rights alone. The names in the request are judged
    /// where they are read; this keeps a call that forgets to from being of use.
    #[must_use]
    pub fn lets_begin(self, rights: &Rights) -> bool {
        match self {
            // Who may read or write nothing is told so for each name.
            Self::Open | Self::Known | Self::Own | Self::Named => true,
            Self::Keeping => rights.allows_any(Verb::Admin),
            Self::Whole => rights.allows_all(Verb::Admin),
        }
    }
}

#[cfg(test)]
mod tests;
