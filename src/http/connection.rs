//! What is to be done when an answer has been given to the socket.
//!
//! An answer takes its receipts with it: over HTTP/2 many answers share a connection, each waits for a window of its own, and one may be taken back while
//! others go out. So a receipt belongs to a piece of a body ([`super::answer`]), and counts when the last byte of that piece was taken by what writes, and
//! all that it was given has been flushed down to the socket afterwards.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest answer, head and all, that is copied into one piece, in bytes.
const SMALL: usize = 1024;

/// What a request came over; every request has it among its data.
#[derive(Clone, Default)]
pub struct Connection(Arc<Mutex<Vec<Receipt>>>);

/// What is to be done when bytes have been sent. Dropped if they cannot be.
type Receipt = Box<dyn FnOnce() + Send>;

impl Connection {
    /// Calls `receipt` when this request's answer, up to the frame of its body that is being made or made next, has been given to the socket, and the
    /// other side was open the moment before. If that does not happen `receipt` is dropped. Bytes on the network may still be lost; nobody can know.
    /// Answers to requests that came together may be sent together, and are then received together or not at all.
    pub fn when_sent(&self, receipt: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(receipt));
    }

    fn take_receipts(&self) -> Vec<Receipt> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The receipts of all answers that are on their way over one connection.
#[derive(Clone, Default)]
pub(super) struct Outbox {
    unsigned: Arc<AtomicUsize>,
    written: Arc<Mutex<Vec<Slip>>>,
}

/// Receipts that go out with a piece of a body. They count as unsigned until this is dropped.
pub(super) struct Slip {
    receipts: Vec<Receipt>,
    unsigned: Arc<AtomicUsize>,
}

impl Outbox {
    /// What goes out with the piece that is made now, if anything does.
    pub(super) fn slip(&self, connection: &Connection) -> Option<Slip> {
        let receipts = connection.take_receipts();
        if receipts.is_empty() {
            return None;
        }
        self.unsigned.fetch_add(1, Ordering::Relaxed);
        Some(Slip { receipts, unsigned: self.unsigned.clone() })
    }

    /// The piece was taken by what writes to the connection.
    pub(super) fn put(&self, slip: Slip) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(slip);
    }

    /// Whether there is anything on its way that somebody wants to know of.
    pub(super) fn has_unsigned(&self) -> bool {
        self.unsigned.load(Ordering::Relaxed) > 0
    }

    fn take_written(&self) -> Vec<Slip> {
        std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        self.unsigned.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The uppermost layer of a connection, which signs.
pub(super) struct Signing {
    inner: Pin<Box<dyn Duplex>>,
    outbox: Outbox,
}

/// What bytes go over: a socket, or TLS over one.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

impl Signing {
    pub(super) fn new(inner: Pin<Box<dyn Duplex>>, outbox: Outbox) -> Self {
        Self { inner, outbox }
    }
}

impl Drop for Signing {
    /// What was taken and could not be flushed any more.
    fn drop(&mut self) {
        drop(self.outbox.take_written());
    }
}

impl AsyncRead for Signing {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Signing {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
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
        self.inner.as_mut().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper, and TLS below it, flush when they have written everything that they were given.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.inner.as_mut().poll_flush(context))?;
        if !self.outbox.has_unsigned() {
            return Poll::Ready(Ok(()));
        }
        for mut slip in self.outbox.take_written() {
            slip.receipts.drain(..).for_each(|receipt| receipt());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_shutdown(context)
    }
}
