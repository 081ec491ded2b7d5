//! A socket that closes when its client reads too slowly.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::connection::Outbox;

/// How fast a client must read in the long run, in bytes a second.
const LEAST_RATE: u64 = 32 * 1024;

/// How many bytes the socket takes before they can be sent.
const UNSENT: u32 = 128 * 1024;

/// How much more time a client is given that has read this many bytes.
pub(super) fn time_for(bytes: usize) -> Duration {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / LEAST_RATE)
}

/// A socket that closes when its client reads too slowly, or has gone while somebody wants to know whether it has its answer.
///
/// `write_timeout` is how long writing may stand still at first; for each [`LEAST_RATE`] bytes that go out a second is added.
pub(super) struct Socket {
    stream: TcpStream,
    /// What was read from it before.
    first: Bytes,
    outbox: Outbox,
    write_timeout: Duration,
    blocked: Option<Blocked>,
}

/// Since the socket took no more bytes for the first time; until everything is written.
struct Blocked {
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Socket {
    /// # Errors
    ///
    /// If the socket is gone already.
    pub(super) fn new(stream: TcpStream, first: Bytes, outbox: Outbox, write_timeout: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // Otherwise Linux tells that there is room only when a third of a buffer of megabytes is free, and a steady reader looks like none. It also keeps
        // what was given to the socket near to what was sent.
        SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT)?;
        Ok(Self { stream, first, outbox, write_timeout, blocked: None })
    }

    /// Whether the other side has closed, or reset, the connection; also if there is something to be read before that.
    fn is_closed(&self) -> bool {
        let closed = PollFlags::from_bits_retain(libc::POLLRDHUP) | PollFlags::POLLHUP | PollFlags::POLLERR;
        !matches!(poll(&mut [PollFd::new(self.stream.as_fd(), closed)], PollTimeout::ZERO), Ok(0) | Err(Errno::EINTR))
    }

    fn poll_written(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.outbox.has_unsigned() && self.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(written) => {
                if let (Some(blocked), Ok(written)) = (&mut self.blocked, &written) {
                    blocked.deadline += time_for(*written);
                }
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_too_slow(context).map(Err),
        }
    }

    fn poll_too_slow(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let first = Instant::now() + self.write_timeout;
        let blocked = self.blocked.get_or_insert_with(|| Blocked { deadline: first, timer: Box::pin(sleep_until(first)) });
        if blocked.timer.deadline() != blocked.deadline {
            blocked.timer.as_mut().reset(blocked.deadline);
        }
        ready!(blocked.timer.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client reads its answer too slowly"))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_written(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_written(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.blocked = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
