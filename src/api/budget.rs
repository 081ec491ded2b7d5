//! How many bytes of bodies a server holds at once, whoever sends or reads how slowly.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;

/// What is counted at a time.
const UNIT: usize = 16 * 1024;

/// The bytes that may be held.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

/// What one request holds of the budget: its own body from the first byte, and its answer until that is sent.
#[derive(Debug, Clone)]
pub struct Share {
    budget: Budget,
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Budget {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS))))
    }

    /// A request's share, empty at first.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), held: Arc::default() }
    }
}

impl Share {
    /// Makes the share large enough for `bytes` in all.
    ///
    /// # Errors
    ///
    /// 503 if others hold too much for that.
    pub fn grow_to(&self, bytes: usize) -> Result<(), Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = bytes.div_ceil(UNIT).saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if missing == 0 {
            return Ok(());
        }
        let more = u32::try_from(missing).ok().and_then(|missing| self.budget.0.clone().try_acquire_many_owned(missing).ok());
        let more = more.ok_or_else(|| Error::unavailable("The server holds as many large requests as it can. Try again in a moment."))?;
        match &mut *held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }

    /// Makes the share as small as what `bytes` take.
    pub fn shrink_to(&self, bytes: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits).saturating_sub(bytes.div_ceil(UNIT));
        if let Some(held) = &mut *held {
            drop(held.split(surplus));
        }
    }

    /// The body, which holds this share until its last frame was taken. Large bodies are sent in pieces ([`super::reply`]), so that is when nearly all
    /// of it has been sent.
    pub fn held_by(self, body: BoxBody<Bytes, io::Error>) -> BoxBody<Bytes, io::Error> {
        Held { body, _share: self }.boxed()
    }
}

struct Held {
    body: BoxBody<Bytes, io::Error>,
    _share: Share,
}

impl Body for Held {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_while_there_is_room_and_gives_all_of_it_back() {
        let budget = Budget::new(4 * UNIT);
        let (one, other) = (budget.share(), budget.share());
        one.grow_to(1).expect("there is room");
        one.grow_to(3 * UNIT).expect("there is room");
        one.grow_to(2 * UNIT).expect("it holds more already");
        assert!(other.grow_to(2 * UNIT).is_err(), "three of four are taken");
        other.grow_to(UNIT).expect("the last one");
        drop(one);
        other.grow_to(4 * UNIT).expect("all is free but its own");
        other.shrink_to(UNIT + 1);
        budget.share().grow_to(2 * UNIT).expect("two were given back");
        other.shrink_to(0);
        assert!(budget.share().grow_to(5 * UNIT).is_err(), "more than there is");
    }
}
