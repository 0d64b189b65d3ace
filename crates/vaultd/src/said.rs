//! Errors as people read them: what happened, what is safe, what to do next. Kinds are those of `twofold.model.errors`.

use std::fmt;

use serde::Serialize;

use crate::far;
use crate::feed;

/// What kind of error it is; each is told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Something not foreseen.
    Failed,
    /// The request's words are off.
    Usage,
    /// No such device, generation, memory.
    NotFound,
    /// The lease or a permission says no.
    Refused,
    /// Not in this state.
    Conflict,
    /// Bytes are not what they were.
    Damaged,
    /// Disk or memory is short.
    NoRoom,
    /// A message or file from outside is not valid.
    BadInput,
    /// What is needed lies elsewhere, and does not come.
    Unreachable,
}

/// An error with words for people; holds no secret.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// Its kind.
    pub code: Code,
    /// What happened, a whole sentence.
    pub happened: String,
    /// What is safe, or empty.
    pub safe: String,
    /// What to do next, or empty.
    pub next: String,
}

impl Said {
    /// An error of which nothing more is known than that it happened.
    pub fn new(code: Code, happened: impl Into<String>) -> Self {
        Self { code, happened: happened.into(), safe: String::new(), next: String::new() }
    }

    /// The same, saying what is safe.
    pub fn safe(mut self, safe: impl Into<String>) -> Self {
        self.safe = safe.into();
        self
    }

    /// The same, saying what to do next.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// A malformed message or file.
    pub fn bad(what: impl Into<String>) -> Self {
        Self::new(Code::BadInput, what)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.happened)
    }
}

fn full() -> Said {
    Said::new(Code::NoRoom, "The disk that holds the workspace is too full.")
        .safe("Nothing is lost.")
        .next("Free some space on this disk, then try again.")
}

impl From<std::io::Error> for Said {
    fn from(failed: std::io::Error) -> Self {
        if matches!(failed.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            return full();
        }
        Self::new(Code::Failed, format!("The system said: {failed}."))
    }
}

impl From<rustix::io::Errno> for Said {
    fn from(failed: rustix::io::Errno) -> Self {
        std::io::Error::from(failed).into()
    }
}

impl From<twofold_vault::Error> for Said {
    fn from(failed: twofold_vault::Error) -> Self {
        use twofold_vault::Error;
        const RESTORE: &str = "Restore the vault's folder from a backup, or roll back to the server's copy.";
        let text = failed.to_string();
        match failed {
            Error::NoSpace => full(),
            Error::Busy => Self::new(Code::Conflict, "The workspace's store is open already.")
                .safe("It was left as it is.")
                .next("Stop the workspace first."),
            Error::Exists => Self::new(Code::Conflict, "There is a vault already.").safe("It was not touched."),
            Error::Stale { found, anchored } => Self::new(
                Code::Damaged,
                format!("The workspace's store is older than it was: it is at {found}, and was at {anchored}."),
            )
            .safe("Nothing was written to it.")
            .next(
                "Put the newest copy of its folder back. To go on with the older one on purpose:  twofold disk repair",
            ),
            Error::AnchorLost | Error::ForeignAnchor => {
                Self::new(Code::Damaged, format!("Whether the workspace's store is the newest can't be told: {text}."))
                    .safe("Nothing was written to it.")
                    .next(
                        "Restore the anchor's file. To go on with the store as it is, on purpose:  twofold disk repair",
                    )
            }
            Error::WrongKey(_) | Error::NoKey(_) => Self::new(
                Code::Damaged,
                "The workspace's disks cannot be opened: the key does not open it, or its files are not one vault's.",
            )
            .safe("Nothing was written to them.")
            .next(RESTORE),
            Error::Incompatible(_) => {
                Self::new(Code::Damaged, format!("The workspace's disks cannot be opened: {text}."))
                    .safe("Nothing was written to them.")
                    .next("Update Twofold.")
            }
            Error::Damaged(_) | Error::TailDamaged(_) | Error::NotAVault => {
                Self::new(Code::Damaged, format!("The workspace's store is damaged: {text}."))
                    .safe("Nothing was written to it; what is not named is whole.")
                    .next(RESTORE)
            }
            Error::Unknown(what) => Self::new(Code::NotFound, format!("The vault has no {what}.")),
            Error::ReadOnly => Self::new(Code::Refused, "The workspace's store may only be read."),
            Error::OutOfRange | Error::Invalid(_) => Self::new(Code::Usage, format!("The store refuses: {text}.")),
            Error::Closed => Self::new(Code::Conflict, "The vault has been closed."),
            ref missing if feed::is_missing(missing) => far::away(&text),
            _ => Self::new(Code::Failed, format!("The workspace's store failed: {text}.")),
        }
    }
}
