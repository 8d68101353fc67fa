//! The systems that are compared. Each file is one: how its server is started so that every
//! acknowledgement is synced, and a client that is as thin as can be, so that it is the server that
//! is measured.

use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::system::System;

pub(crate) mod etcd;
pub(crate) mod nats;
pub(crate) mod ours;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod socket;

use etcd::Etcd;
use nats::Nats;
use ours::Ours;
use postgres::Postgres;
use redis::Redis;

/// Which systems take part.
#[derive(Debug, Clone)]
pub(crate) struct Lineup {
    /// The program `sync-server`.
    pub(crate) server: PathBuf,
    /// Who else.
    pub(crate) peers: Vec<Peer>,
}

/// A peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// etcd.
    Etcd,
    /// Redis Streams.
    Redis,
    /// `PostgreSQL`.
    Postgres,
    /// NATS `JetStream`.
    Nats,
}

/// All of them.
pub(crate) const PEERS: [Peer; 4] = [Peer::Etcd, Peer::Redis, Peer::Postgres, Peer::Nats];

// === impl Lineup ===

impl Lineup {
    /// All of them, on directories below `dir`; ours also with tokens, if that is asked for.
    pub(crate) fn systems(&self, dir: &Path, tokens: bool) -> Vec<Outcome<Box<dyn System>>> {
        let ours = |tokens| Ok(Box::new(Ours::new(&self.server, dir, tokens)?) as Box<dyn System>);
        let mut systems = vec![ours(false)];
        if tokens {
            systems.push(ours(true));
        }
        systems.extend(self.peers.iter().map(|peer| peer.system(dir)));
        systems
    }
}

// === impl Peer ===

impl Peer {
    fn system(self, dir: &Path) -> Outcome<Box<dyn System>> {
        Ok(match self {
            Self::Etcd => Box::new(Etcd::new(dir)?),
            Self::Redis => Box::new(Redis::new(dir)?),
            Self::Postgres => Box::new(Postgres::new(dir)?),
            Self::Nats => Box::new(Nats::new(dir)?),
        })
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Nats => "nats",
        })
    }
}
