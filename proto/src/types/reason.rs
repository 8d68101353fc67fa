//! Why the server did not do what was asked, in one word for programs: the `reason` of
//! `google.rpc.ErrorInfo`. The only list of these words; `docs/PROTOCOL.md` explains the same ones. A
//! word is never given another meaning, and never taken away.

/// Who says these words: the `domain` of `google.rpc.ErrorInfo`.
pub const REASON_DOMAIN: &str = "deltasync.v1";

macro_rules! reasons {
    ($($(#[doc = $means:literal])+ $name:ident = $word:literal,)+) => {
        /// Why the server did not do what was asked.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $means])+ $name,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// All of them, with their words.
            pub const WORDS: &[(Self, &'static str)] = &[$((Self::$name, $word),)+];

            /// The reason of a word on the wire; `None` = this version does not know it.
            #[must_use]
            pub fn of_word(word: &str) -> Option<Self> {
                Self::WORDS.iter().find(|(_, known)| *known == word).map(|(reason, _)| *reason)
            }

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// A field is malformed, out of range or contradicts another.
    Malformed = "MALFORMED",
    /// The bytes of the request are no such message.
    Undecodable = "UNDECODABLE",
    /// The page token was made for another question, or by nobody.
    PageTokenInvalid = "PAGE_TOKEN_INVALID",
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED",
    /// The commit would change more at once than a message, or the server, takes.
    CommitTooLarge = "COMMIT_TOO_LARGE",
    /// The message is longer than 4 MiB.
    MessageTooLarge = "MESSAGE_TOO_LARGE",
    /// No credentials, or none that the server knows.
    CredentialsNeeded = "CREDENTIALS_NEEDED",
    /// The credentials were good, and their time is over.
    CredentialsExpired = "CREDENTIALS_EXPIRED",
    /// The server has not got the keys yet that verify the credentials.
    KeysNotReady = "KEYS_NOT_READY",
    /// The rights do not cover this, whether or not it exists.
    NotAllowed = "NOT_ALLOWED",
    /// There is no such call, or it is encoded in a way that the server does not read.
    NoSuchCall = "NO_SUCH_CALL",
    /// There is no such collection.
    NoSuchCollection = "NO_SUCH_COLLECTION",
    /// There is no such import within the window.
    NoSuchImport = "NO_SUCH_IMPORT",
    /// No client of this id is remembered.
    NoSuchClient = "NO_SUCH_CLIENT",
    /// A precondition of a commit does not hold.
    PreconditionFailed = "PRECONDITION_FAILED",
    /// A reorder names an item that does not exist.
    ItemMissing = "ITEM_MISSING",
    /// An import left a number out.
    ImportGap = "IMPORT_GAP",
    /// The collection does not stand where the caller said.
    HeadDiffers = "HEAD_DIFFERS",
    /// The version is above the head.
    AboveHead = "ABOVE_HEAD",
    /// The acknowledged cursor is of another life of the collection.
    AckOtherEpoch = "ACK_OTHER_EPOCH",
    /// The acknowledged cursor is above the head.
    AckAboveHead = "ACK_ABOVE_HEAD",
    /// The acknowledged cursor is further than what was sent to the client.
    AckNeverSent = "ACK_NEVER_SENT",
    /// The rounds of a reconciliation cannot go on; begin at depth 0.
    ReconcileAnew = "RECONCILE_ANEW",
    /// The page token is of an earlier life of the collection.
    PageTokenOutlived = "PAGE_TOKEN_OUTLIVED",
    /// The collection got another epoch meanwhile.
    EpochChanged = "EPOCH_CHANGED",
    /// Commits come faster than a backup copies them.
    BackupOvertaken = "BACKUP_OVERTAKEN",
    /// The server holds as much for its peers as it may.
    NoRoom = "NO_ROOM",
    /// As many streams, or targets on them, as there may be.
    StreamsTaken = "STREAMS_TAKEN",
    /// Another call of this kind is under way.
    OperationBusy = "OPERATION_BUSY",
    /// The same first load was begun again and again.
    LoadRepeated = "LOAD_REPEATED",
    /// The disk of the server is almost full.
    DiskFull = "DISK_FULL",
    /// The collection would hold more bytes than its policy allows.
    CollectionQuota = "COLLECTION_QUOTA",
    /// More bytes would be stored below a name than the policy of the server allows.
    StoredBytes = "STORED_BYTES",
    /// The caller commits more often than it may.
    CommitRate = "COMMIT_RATE",
    /// The caller changes more items a second than it may.
    MutationRate = "MUTATION_RATE",
    /// First loads and reconciliations hold as much as they may.
    LoadsBusy = "LOADS_BUSY",
    /// The request did not arrive in time.
    UploadTooSlow = "UPLOAD_TOO_SLOW",
    /// The caller did not take the answer.
    NotTaken = "NOT_TAKEN",
    /// The work was given up because it took too long.
    TookTooLong = "TOOK_TOO_LONG",
    /// The caller is gone.
    CallerGone = "CALLER_GONE",
    /// The server is stopping.
    Stopping = "STOPPING",
    /// Storage failed during a write: whether it happened is not known.
    OutcomeUnknown = "OUTCOME_UNKNOWN",
    /// A fault of the server.
    Internal = "INTERNAL",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G11: what a program decides by is one word of the form that google.rpc asks for, and no two
    /// reasons are the same word.
    #[test]
    fn reasons_are_words_of_their_own() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in Reason::ALL {
            let word = reason.as_str();
            let form = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
            assert!(word.len() <= 63 && word.bytes().all(form), "{word}");
            assert!(seen.insert(word), "{word} stands for two");
        }
    }
}
