//! One connection: what is known of it while a request is answered, and how it is written to.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd as _,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// How fast a client must read in the long run, in bytes a second.
const LEAST_RATE: u64 = 32 * 1024;

/// How many bytes the socket takes before they can be sent.
const UNSENT: u32 = 128 * 1024;

/// The largest answer, head and all, that is copied into one piece, in bytes.
const SMALL: usize = 1024;

/// What a request came over; every request has it among its data.
#[derive(Clone, Default)]
pub struct Connection(Arc<Mutex<Vec<Receipt>>>);

/// What is to be done when bytes have been sent. Dropped if they cannot be.
type Receipt = Box<dyn FnOnce() + Send>;

impl Connection {
    /// Calls `receipt` when all that is to be sent so far has been given to the socket, and its other side was open the moment before. If that does not
    /// happen `receipt` is dropped. Bytes on the network may still be lost; nobody can know. Answers to requests that came together may be sent together,
    /// and are then received together or not at all.
    pub fn when_sent(&self, receipt: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(receipt));
    }

    fn has_receipts(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn take_receipts(&self) -> Vec<Receipt> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A socket that closes when its client reads too slowly, and that tells the [`Connection`] what was sent.
///
/// `write_timeout` is how long writing may stand still at first; for each [`LEAST_RATE`] bytes that go out a second is added.
pub(super) struct Socket {
    stream: TcpStream,
    /// What was read from it before.
    first: Bytes,
    connection: Connection,
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
    pub(super) fn new(stream: TcpStream, first: Bytes, connection: Connection, write_timeout: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // Otherwise Linux tells that there is room only when a third of a buffer of megabytes is free, and a steady reader looks like none. It also keeps
        // what was given to the socket near to what was sent.
        SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT)?;
        Ok(Self { stream, first, connection, write_timeout, blocked: None })
    }

    /// Whether the other side has closed, or reset, the connection; also if there is something to be read before that.
    fn is_closed(&self) -> bool {
        let closed = PollFlags::from_bits_retain(libc::POLLRDHUP) | PollFlags::POLLHUP | PollFlags::POLLERR;
        !matches!(poll(&mut [PollFd::new(self.stream.as_fd(), closed)], PollTimeout::ZERO), Ok(0))
    }

    fn poll_written(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.connection.has_receipts() && self.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(written) => {
                if let (Some(blocked), Ok(written)) = (&mut self.blocked, &written) {
                    let written = u64::try_from(*written).unwrap_or(u64::MAX);
                    blocked.deadline += Duration::from_nanos(written.saturating_mul(1_000_000_000) / LEAST_RATE);
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
        let length = slices.iter().map(|slice| slice.len()).sum();
        if length <= SMALL {
            // The kernel takes one small piece for less than it takes two.
            let mut whole = [0; SMALL];
            slices.iter().fold(&mut whole[..], |free, slice| {
                let (now, later) = free.split_at_mut(slice.len());
                now.copy_from_slice(slice);
                later
            });
            return self.poll_write(context, &whole[..length]);
        }
        self.poll_written(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written everything that it was given.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.blocked = None;
        for receipt in self.connection.take_receipts() {
            receipt();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
