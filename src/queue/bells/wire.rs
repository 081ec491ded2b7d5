//! The wire between the bells of servers: what is rung at one is heard at the others, by way of Redis.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::Bells;
use crate::redis::Redis;

/// How long it may be silent before it is asked whether anybody can be heard.
const SILENCE: Duration = Duration::from_secs(5);

/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How many projects and clients wait to be told of.
const WAITING: usize = 4096;

/// Of how many others are told at once.
const TOGETHER: usize = 256;

/// The channel on which servers tell each other.
const CHANNEL: &str = "ready";

/// What was rung.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Rung {
    /// The bell of a project.
    Project(i64),
    /// Those of whoever waits with this client.
    Client(String),
}

/// Before a client's id on the wire, if that is all.
const CLIENT: &str = "client:";

/// What goes over the wire: a project's number, a client, or of what was rung together a JSON array, in which numbers are projects, and texts are clients. Without
/// anything it is a probe.
fn written(rings: &[Rung]) -> String {
    match rings {
        [] => "?".to_owned(),
        [Rung::Project(project)] => project.to_string(),
        [Rung::Client(client)] => format!("{CLIENT}{client}"),
        several => serde_json::to_string(several).expect("numbers and texts are JSON"),
    }
}

/// What came over the wire. Nothing of what nobody here understands.
fn read(text: &str) -> Vec<Rung> {
    match text.strip_prefix(CLIENT) {
        Some(client) => vec![Rung::Client(client.to_owned())],
        None if text.starts_with('[') => serde_json::from_str(text).unwrap_or_default(),
        None => text.parse().map(Rung::Project).into_iter().collect(),
    }
}

/// Passes on what is rung here to other servers, and what is rung there to these bells. Nothing depends on it but how soon somebody looks.
pub struct Wire {
    bells: Bells,
    rung: mpsc::Receiver<Rung>,
    redis: Redis,
    /// Whose messages need not be heard.
    server: Uuid,
}

impl Wire {
    /// Bells, and the wire to those of other servers.
    pub fn new(redis: Redis) -> (Bells, Self) {
        let (sender, rung) = mpsc::channel(WAITING);
        let bells = Bells { elsewhere: Some(sender), ..Bells::default() };
        (bells.clone(), Self { bells, rung, redis, server: Uuid::new_v4() })
    }

    /// Never ends.
    pub async fn run(self) {
        let Self { bells, rung, redis, server } = self;
        let (probe, probes) = mpsc::channel(1);
        tokio::join!(send(&redis, server, rung, probes), hear(&redis, server, &bells, probe));
    }
}

async fn send(redis: &Redis, server: Uuid, mut rung: mpsc::Receiver<Rung>, mut probes: mpsc::Receiver<()>) {
    let mut sender = redis.sender(CHANNEL);
    let mut rings = Vec::new();
    loop {
        rings.clear();
        tokio::select! {
            count = rung.recv_many(&mut rings, TOGETHER) => if count == 0 { return },
            Some(()) = probes.recv() => {}
        }
        // Many jobs of a project that end at once are one reason to look.
        rings.sort_unstable();
        rings.dedup();
        if let Err(error) = sender.send(&format!("{server} {}", written(&rings))).await {
            {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "other servers were not told that there are jobs: they look by themselves");
            }
            sleep(PAUSE).await;
        }
    }
}

async fn hear(redis: &Redis, server: Uuid, bells: &Bells, probe: mpsc::Sender<()>) {
    loop {
        if let Ok(mut messages) = redis.messages(CHANNEL).await {
            // What was rung before was not heard.
            bells.ring_all_here();
            let mut is_silent = false;
            loop {
                match timeout(SILENCE, messages.next()).await {
                    Ok(Some(message)) => {
                        is_silent = false;
                        if let Some((_, rung)) = message.split_once(' ').filter(|(from, _)| *from != server.to_string()) {
                            read(rung).iter().for_each(|rung| match rung {
                                Rung::Project(project) => bells.ring_here(*project),
                                Rung::Client(client) => bells.ring_here_for_client(client),
                            });
                        }
                    }
                    Ok(None) => break,
                    // Not even its own probe was heard.
                    Err(_) if is_silent => break,
                    Err(_) => {
                        is_silent = true;
                        probe.try_send(()).ok();
                    }
                }
            }
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_rung_is_understood_elsewhere() {
        let (project, client) = (Rung::Project(7), Rung::Client("gpu-node-1".to_owned()));
        let tricky = Rung::Client("7\", [client: \n".to_owned());
        for rings in
            [vec![], vec![project.clone()], vec![client.clone()], vec![tricky.clone()], vec![project.clone(), client, tricky, project]]
        {
            assert_eq!(read(&written(&rings)), rings);
        }
        // One at a time is told as it always was.
        assert_eq!((written(&[Rung::Project(7)]), written(&[Rung::Client("n".to_owned())])), ("7".to_owned(), "client:n".to_owned()));
        for other in ["", "x", "[7", "[7, {}]", "{}"] {
            assert_eq!(read(other), [], "{other:?}");
        }
    }
}
