//! What is said to a peer goes out together: a system call and a packet cost a small answer more than
//! all the rest of it.
//!
//! HTTP/2's library writes when a connection's task is polled, and that is whenever one of its calls
//! has an answer: for many calls on one connection, so many writes. So the first write of a round
//! lets the calls go first that are ready to answer, too. The library writes, too, before each
//! message of some size, unless it is told that it cannot write from several places at once; then it
//! gathers frames up to 1 KiB, and writes the head of a larger one apart from its bytes. So a small
//! write waits for the next one, or for the flush that every batch of frames ends with.
//!
//! HTTP/1.1 has one answer at a time, and writes from several places: nothing waits then.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::requests::Requests;

/// A write of more is not held back: it is worth its system call. What the library puts before a
/// large message is 1 KiB, and the frames that were small enough to be gathered.
const HELD_BYTES_MAX: usize = 2 * 1024;

/// With fewer requests there is nobody to let go first.
const OTHERS_FROM: u64 = 2;

/// A line whose small writes go out with the next one.
#[derive(Debug)]
pub(super) struct Gather<L> {
    line: L,
    requests: Requests,
    round: Round,
    /// Taken, and not written yet: at most `HELD_BYTES_MAX`. Has no room of its own while it is
    /// empty, because most connections are silent.
    held: Vec<u8>,
}

/// How far the connection's task is. It reads, as a rule each time it is polled, and then writes; it may
/// do so more than once, when requests come in meanwhile: then it waits for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Nothing was written.
    Begun,
    /// It had something to write, and let others go first.
    Waited,
    /// It wrote.
    Wrote,
}

// === impl Gather ===

impl<L> Gather<L> {
    pub(super) fn new(line: L, requests: Requests) -> Self {
        Self { line, requests, round: Round::Begun, held: Vec::new() }
    }

    /// Once a round, if others may have something to say: the task goes behind all that are ready
    /// to run, as it is woken while it runs.
    fn let_others_go_first(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.round == Round::Begun && self.requests.open_now() >= OTHERS_FROM {
            self.round = Round::Waited;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.round = Round::Wrote;
        Poll::Ready(())
    }
}

impl<L: AsyncWrite + Unpin> Gather<L> {
    /// Writes what is held, with what follows it. How much of what follows was written.
    fn poll_write_after_held(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let slices = [IoSlice::new(&self.held), IoSlice::new(bytes)];
            let line = Pin::new(&mut self.line);
            let written = ready!(line.poll_write_vectored(context, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let Some(of_bytes) = written.checked_sub(self.held.len()) else {
                self.held.drain(..written);
                continue;
            };
            self.held = Vec::new();
            if of_bytes > 0 {
                return Poll::Ready(Ok(of_bytes));
            }
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.line).poll_write(context, bytes)
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for Gather<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.round == Round::Wrote {
            self.round = Round::Begun;
        }
        Pin::new(&mut self.line).poll_read(context, buffer)
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for Gather<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.let_others_go_first(context));
        if self.held.is_empty() && bytes.len() <= HELD_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_write_after_held(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.held.is_empty() {
            return Pin::new(&mut self.line).poll_write_vectored(context, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write_after_held(context, first.map_or(&[], |slice| slice))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_after_held(context, &[]))?;
        Pin::new(&mut self.line).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_after_held(context, &[]))?;
        Pin::new(&mut self.line).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// A line that takes so many bytes at each write, and then is full until it is asked again.
    #[derive(Debug, Default)]
    struct Narrow {
        takes: Vec<usize>,
        full: bool,
        writes: Vec<Vec<u8>>,
    }

    impl Narrow {
        fn written(&self) -> Vec<u8> {
            self.writes.concat()
        }
    }

    impl AsyncRead for Narrow {
        fn poll_read(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            _buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if std::mem::take(&mut self.full) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut all = slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
            if let Some(takes) = self.takes.pop() {
                all.truncate(takes);
                self.full = true;
            }
            self.writes.push(all.clone());
            Poll::Ready(Ok(all.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn alone(takes: Vec<usize>) -> Gather<Narrow> {
        Gather::new(Narrow { takes, ..Narrow::default() }, Requests::default())
    }

    /// How the connection's task begins.
    fn reads(gather: &mut Gather<Narrow>) {
        let mut context = Context::from_waker(Waker::noop());
        let mut buffer = [0; 8];
        let read = Pin::new(gather).poll_read(&mut context, &mut ReadBuf::new(&mut buffer));
        assert!(read.is_pending());
    }

    fn writes(gather: &mut Gather<Narrow>) -> Poll<io::Result<usize>> {
        Pin::new(gather).poll_write(&mut Context::from_waker(Waker::noop()), b"answer")
    }

    #[tokio::test]
    async fn a_head_goes_out_with_its_message() {
        let mut gather = alone(Vec::new());
        gather.write_all(b"head").await.unwrap();
        gather.write_all(&[b'x'; 5_000]).await.unwrap();
        gather.write_all(b"end").await.unwrap();
        assert_eq!(gather.line.writes.len(), 1, "the end waits for what follows");
        gather.flush().await.unwrap();
        let lens: Vec<usize> = gather.line.writes.iter().map(Vec::len).collect();
        assert_eq!(lens, [5_004, 3]);
        assert_eq!(gather.held.capacity(), 0, "silent connections hold nothing");
    }

    #[tokio::test]
    async fn what_lies_in_several_places_waits_for_nobody() {
        let mut gather = alone(Vec::new());
        let requests = gather.requests.clone();
        let _open = [requests.open(), requests.open()];
        let slices = [&b""[..], b"head", b"bytes"].map(IoSlice::new);
        assert_eq!(gather.write_vectored(&slices).await.unwrap(), 9);
        assert_eq!(gather.line.written(), b"headbytes");
        gather.write_all(b"held ").await.unwrap();
        assert_eq!(gather.write_vectored(&slices).await.unwrap(), 4);
        assert_eq!(gather.line.written(), b"headbytesheld head");
    }

    #[test]
    fn whoever_writes_lets_others_go_first_once_a_round() {
        let mut gather = alone(Vec::new());
        let requests = gather.requests.clone();
        let _one = requests.open();
        reads(&mut gather);
        assert!(writes(&mut gather).is_ready(), "there is nobody else");
        let two = requests.open();
        for _ in 0..2 {
            reads(&mut gather);
            assert!(writes(&mut gather).is_pending());
            reads(&mut gather);
            assert!(writes(&mut gather).is_ready());
            assert!(writes(&mut gather).is_ready(), "all of the round");
        }
        drop(two);
        reads(&mut gather);
        assert!(writes(&mut gather).is_ready(), "the other has ended");
    }

    proptest! {
        #[test]
        fn everything_is_written_in_order(
            parts in prop::collection::vec((0..5_000_usize, any::<bool>()), 1..20),
            takes in prop::collection::vec(1..3_000_usize, 0..40),
            others in 0..3_usize,
        ) {
            let mut gather = alone(takes);
            let requests = gather.requests.clone();
            let _open: Vec<_> = (0..others).map(|_| requests.open()).collect();
            let mut said = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for (length, flushes) in parts {
                let part: Vec<u8> = (said.len()..said.len() + length).map(|at| at.to_le_bytes()[0]).collect();
                reads(&mut gather);
                runtime.block_on(async {
                    gather.write_all(&part).await.unwrap();
                    if flushes {
                        gather.flush().await.unwrap();
                    }
                });
                said.extend(part);
                prop_assert!(gather.held.len() <= HELD_BYTES_MAX);
                prop_assert!(!flushes || gather.line.written() == said);
            }
            runtime.block_on(gather.shutdown()).unwrap();
            prop_assert_eq!(gather.line.written(), said);
        }
    }
}
