//! A connection to a peer whose protocol is bytes on TCP.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::failure::{Failure, Outcome, io};

/// What one read asks for.
const READ_BYTES: usize = 64 * 1024;

/// A connection, with what has come and is not taken yet.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    system: &'static str,
    pub(crate) input: BytesMut,
    /// What the peer calls this connection, where it needs a name.
    pub(crate) name: String,
}

// === impl Socket ===

impl Socket {
    pub(crate) async fn connect(system: &'static str, address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await.map_err(io("connect to a peer"))?;
        stream.set_nodelay(true).map_err(io("connect to a peer"))?;
        Ok(Self { stream, system, input: BytesMut::new(), name: String::new() })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.stream.write_all(bytes).await.map_err(io("write to a peer"))
    }

    /// Waits until more has come.
    pub(crate) async fn more(&mut self) -> Outcome<()> {
        self.input.reserve(READ_BYTES);
        let count = self.stream.read_buf(&mut self.input).await.map_err(io("read from a peer"))?;
        if count == 0 { Err(self.wrong("it closed the connection")) } else { Ok(()) }
    }

    /// What a peer said that it should not.
    pub(crate) fn wrong(&self, said: impl Into<String>) -> Failure {
        Failure::Peer { system: self.system, said: said.into() }
    }
}
