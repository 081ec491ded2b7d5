//! Messages among servers, over connections of their own: what waits for a message must not keep requests waiting, and the other way round.
//!
//! A message may get lost, and nothing may depend on it but speed. In a cluster every node passes messages on to all others, so one of them will do.

use deadpool_redis::{Manager, Pool, Runtime, Timeouts};
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use redis::cmd;
use tokio::time::timeout;

use super::{Error, Redis, way::Way};

/// How many connections send messages.
const SENDERS: usize = 2;

/// Sends messages on one channel.
pub struct Sender {
    redis: Redis,
    channel: String,
    /// To the server that was there last, and the way to it.
    pool: Option<(Arc<Way>, Pool)>,
}

impl Redis {
    /// Sends messages on a channel of this name.
    pub fn sender(&self, channel: &str) -> Sender {
        Sender { redis: self.clone(), channel: self.channel(channel), pool: None }
    }

    /// Messages that are sent on a channel from now on. They end when the connection does, or when another way is to be used ([`Redis::reload`]).
    ///
    /// # Errors
    ///
    /// Any [`Error`] if nobody is there to listen to.
    pub async fn messages(&self, channel: &str) -> Result<impl Stream<Item = String> + Unpin + use<>, Error> {
        let mut ways = self.shared.way.subscribe();
        let way = ways.borrow_and_update().clone();
        let connect = async {
            let client = way.any(self.timeout).await?;
            let mut listener = client.get_async_pubsub().await?;
            listener.subscribe(self.channel(channel)).await?;
            Ok::<_, Error>(listener)
        };
        let listener = timeout(self.timeout, connect).await??;
        let payloads = listener.into_on_message().filter_map(|message| std::future::ready(message.get_payload().ok()));
        Ok(payloads.take_until(async move { ways.changed().await }).boxed())
    }

    fn channel(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }
}

impl Sender {
    /// Sends a message.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; it may have been sent all the same.
    pub async fn send(&mut self, message: &str) -> Result<(), Error> {
        let sent = timeout(self.redis.timeout, self.try_send(message)).await;
        let sent = sent.map_err(Error::from).and_then(|sent| sent);
        if sent.is_err() {
            // The next one looks for the server anew: it may be another one by then.
            self.pool = None;
        }
        sent
    }

    async fn try_send(&mut self, message: &str) -> Result<(), Error> {
        let way = self.redis.way();
        let pool = match &self.pool {
            Some((known, pool)) if Arc::ptr_eq(known, &way) => pool,
            _ => &self.pool.insert((way.clone(), self.redis.pool(&way).await?)).1,
        };
        let mut connection = pool.get().await?;
        Ok(cmd("PUBLISH").arg(&self.channel).arg(message).exec_async(&mut connection).await?)
    }
}

impl Redis {
    async fn pool(&self, way: &Way) -> Result<Pool, Error> {
        let client = way.any(self.timeout).await?;
        let time = Some(self.timeout);
        let pool = Pool::builder(Manager::new(client.get_connection_info().clone())?)
            .max_size(SENDERS)
            .timeouts(Timeouts { wait: time, create: time, recycle: time })
            .runtime(Runtime::Tokio1);
        Ok(pool.build().expect("it has a runtime"))
    }
}
