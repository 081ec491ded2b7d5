//! The connection that all requests share, and what is known of what is at its other end.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster_async::ClusterConnection,
    cluster_routing::Slot,
};
use tokio::time::Instant;

/// How many slots a cluster has.
const SLOTS: usize = 16384;

/// A connection that everybody shares.
#[derive(Clone)]
pub enum Connection {
    /// To one server. It ends when it breaks; the next one is made by [`super::Redis::watch`].
    One(MultiplexedConnection),
    /// To the nodes of a cluster; it follows slots that move.
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(&'a mut self, pipeline: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// A connection and what it leads to.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) nodes: Arc<Nodes>,
}

/// The servers behind a connection, as they were when it was made.
///
/// Each has a clock of its own: that one node of a cluster answers says nothing of another.
pub(super) struct Nodes {
    /// In a cluster, the node of each slot. Empty where one server has all keys.
    slots: HashMap<Slot, usize>,
    /// When each last answered anybody, in microseconds since the start.
    answers: Vec<AtomicU64>,
    start: Instant,
}

impl Nodes {
    /// One server that has all keys.
    pub(super) fn one() -> Self {
        Self { slots: HashMap::new(), answers: vec![AtomicU64::new(0)], start: Instant::now() }
    }

    /// Nodes that have all slots between them; nothing if slots are missing. Each range is its first slot, its last, and the number of its node.
    pub(super) fn of_cluster(ranges: &[(u16, u16, usize)]) -> Option<Self> {
        let mut slots = HashMap::with_capacity(SLOTS);
        for (first, last, node) in ranges {
            for slot in *first..=*last {
                slots.insert(Slot::new(slot)?, *node);
            }
        }
        let count = ranges.iter().map(|(_, _, node)| node + 1).max()?;
        let answers = (0..count).map(|_| AtomicU64::new(0)).collect();
        (slots.len() == SLOTS).then(|| Self { slots, answers, start: Instant::now() })
    }

    /// The node that has a key.
    pub(super) fn with<K: AsRef<str>>(&self, key: impl FnOnce() -> K) -> usize {
        if self.slots.is_empty() {
            return 0;
        }
        self.slots.get(&Slot::for_key(key().as_ref())).copied().unwrap_or(0)
    }

    /// The slot of a key, where there are any.
    pub(super) fn slot<K: AsRef<str>>(&self, key: impl FnOnce() -> K) -> Option<Slot> {
        (!self.slots.is_empty()).then(|| Slot::for_key(key().as_ref()))
    }

    /// For each node a hash tag of keys that it has.
    pub(super) fn tags(&self) -> Vec<String> {
        let mut tags = vec![None; self.answers.len()];
        // A node with a single slot is met once in 16384 tries.
        for tag in (0..1_000_000).map(|n| n.to_string()) {
            let found = &mut tags[self.with(|| &tag)];
            if found.is_none() {
                *found = Some(tag);
                if tags.iter().all(Option::is_some) {
                    break;
                }
            }
        }
        tags.into_iter().flatten().collect()
    }

    pub(super) fn note_answer(&self, node: usize) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.answers[node].fetch_max(now, Ordering::Relaxed);
    }

    /// When a node last answered anybody.
    pub(super) fn last_answer(&self, node: usize) -> u64 {
        self.answers[node].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_node_that_has_its_slot() {
        // As CLUSTER KEYSLOT tells: foo is in slot 12182, bar in 5061.
        let nodes = Nodes::of_cluster(&[(8000, 16383, 0), (0, 99, 1), (100, 100, 2), (101, 7999, 1)]).expect("all slots are there");
        assert_eq!((nodes.with(|| "foo"), nodes.with(|| "wn:{bar}:record")), (0, 1));
        let tags = nodes.tags();
        assert_eq!(tags.iter().map(|tag| nodes.with(|| tag)).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(Nodes::one().tags(), ["0"]);
    }

    #[test]
    fn slots_that_nobody_has_are_seen() {
        for ranges in [&[][..], &[(0, 16382, 0)], &[(1, 16383, 0)], &[(0, 5, 0), (7, 16383, 1)], &[(0, 16384, 0)]] {
            assert!(Nodes::of_cluster(ranges).is_none());
        }
    }
}
