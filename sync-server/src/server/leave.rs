//! Taking leave of a peer: what it still sends is read, and dropped, until it has closed its side
//! too. Were the connection closed at once, a peer that is sending just then would be told that it
//! is broken, and many libraries throw away what they have received but not yet read when they are
//! told that: the last answers, and every goodbye. The idea is `lingering_close` of nginx; RFC 9112
//! (HTTP/1.1), section 9.6, asks for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A peer has this long to close its side.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// This much of what it sends is read. A peer that is about to read the last of its answers sends
/// less: there may be that much on its way to a connection (`CONNECTION_WINDOW_BYTES`), and frames
/// that say what it does not want any more.
const LINGER_BYTES_MAX: u64 = 2 * super::CONNECTION_WINDOW_BYTES as u64;
/// It is read in pieces of this size.
const PIECE_BYTES: usize = 4 * 1024;

/// The end of one connection, whose own side has been closed.
#[derive(Default)]
pub(super) struct Leave {
    /// From the first time it is asked on.
    patience: Option<Pin<Box<Sleep>>>,
    read: u64,
}

impl Leave {
    /// Resolves when the peer has closed its side, or it is not worth waiting for that any more.
    pub(super) fn poll(
        &mut self,
        line: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(LINGER_MAX)));
        if patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut piece = [0; PIECE_BYTES];
        while self.read < LINGER_BYTES_MAX {
            match ready!(read(line, &mut piece, context)) {
                Ok(read @ 1..) => self.read += read as u64,
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

fn read(
    line: &mut (impl AsyncRead + Unpin),
    piece: &mut [u8],
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(piece);
    ready!(Pin::new(line).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::Instant;

    use super::*;

    /// How long it takes to take leave of the peer at the other end of a line.
    async fn lasts(line: &mut (impl AsyncRead + Unpin)) -> Duration {
        let start = Instant::now();
        let mut leave = Leave::default();
        std::future::poll_fn(|context| leave.poll(line, context)).await;
        start.elapsed()
    }

    #[tokio::test]
    async fn a_peer_that_closes_its_side_is_waited_for() {
        let (mut line, mut peer) = tokio::io::duplex(64);
        let closes = async {
            for _ in 0..3 {
                peer.write_all(&[0; 100]).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
            drop(peer);
        };
        let (took, ()) = tokio::join!(lasts(&mut line), closes);
        assert!(took >= Duration::from_millis(60) && took < LINGER_MAX, "{took:?}");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_close_its_side_is_left() {
        let (mut line, _peer) = tokio::io::duplex(64);
        assert!(lasts(&mut line).await >= LINGER_MAX);
    }

    #[tokio::test]
    async fn a_peer_that_goes_on_sending_is_left() {
        let mut line = tokio::io::repeat(1);
        assert!(lasts(&mut line).await < LINGER_MAX);
    }
}
