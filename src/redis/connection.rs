//! The connection that all requests share, and what is known of what is at its other end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager, MultiplexedConnection},
    cluster_async::ClusterConnection,
};
use tokio::time::Instant;

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16384;

/// A connection that everybody shares.
#[derive(Clone)]
pub enum Connection {
    /// To one server; it is made anew when it breaks.
    Single(ConnectionManager),
    /// To the nodes of a cluster; it follows slots that move.
    Cluster(ClusterConnection),
    /// To what the sentinels said is the master. It ends when it breaks, since another one may be the master by then.
    Master(MultiplexedConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
            Self::Master(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(&'a mut self, pipeline: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Master(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
            Self::Master(connection) => connection.get_db(),
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
    /// In a cluster the last slot of each range and the node that has it, by slots. Empty where one server has all keys.
    ranges: Vec<(u16, usize)>,
    /// When each last answered anybody, in microseconds since the start.
    answers: Vec<AtomicU64>,
    start: Instant,
}

impl Nodes {
    /// One server that has all keys.
    pub(super) fn one() -> Self {
        Self { ranges: Vec::new(), answers: vec![AtomicU64::new(0)], start: Instant::now() }
    }

    /// Nodes that have all slots between them; nothing if slots are missing. Each range is its first slot, its last, and the number of its node.
    pub(super) fn of_cluster(mut ranges: Vec<(u16, u16, usize)>) -> Option<Self> {
        ranges.sort_unstable();
        let mut next = 0;
        for (first, last, _) in &ranges {
            if *first != next || last < first {
                return None;
            }
            next = last + 1;
        }
        if next != SLOTS {
            return None;
        }
        let count = ranges.iter().map(|(_, _, node)| node + 1).max()?;
        let answers = (0..count).map(|_| AtomicU64::new(0)).collect();
        Some(Self { ranges: ranges.into_iter().map(|(_, last, node)| (last, node)).collect(), answers, start: Instant::now() })
    }

    /// The node that has the keys with this hash tag.
    pub(super) fn with(&self, tag: &str) -> usize {
        if self.ranges.is_empty() {
            return 0;
        }
        let slot = slot(tag);
        let at = self.ranges.partition_point(|(last, _)| *last < slot);
        self.ranges.get(at).map_or(0, |(_, node)| *node)
    }

    /// For each node a hash tag of keys that it has.
    pub(super) fn tags(&self) -> Vec<String> {
        let mut tags = vec![None; self.answers.len()];
        let mut missing = tags.len();
        // A node with a single slot is met once in 16384 tries.
        for n in 0..1_000_000 {
            let tag = n.to_string();
            let found = &mut tags[self.with(&tag)];
            if found.is_none() {
                *found = Some(tag);
                missing -= 1;
                if missing == 0 {
                    break;
                }
            }
        }
        tags.into_iter().flatten().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn note_answer(&self, node: usize) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.answers[node].fetch_max(now, Ordering::Relaxed);
    }

    /// Since when a node has answered nobody, as seen by who began to wait at this time.
    pub(super) fn quiet_since(&self, node: usize, began: Instant) -> Instant {
        began.max(self.start + Duration::from_micros(self.answers[node].load(Ordering::Relaxed)))
    }
}

/// The slot of keys with this hash tag.
fn slot(tag: &str) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As CLUSTER KEYSLOT tells them; the first is the check value of the specification.
        assert_eq!((slot("123456789"), slot("foo"), slot("k:01")), (0x31C3, 12182, 9806));
    }

    #[test]
    fn a_subject_belongs_to_the_node_that_has_its_slot() {
        let nodes = Nodes::of_cluster(vec![(8000, 16383, 0), (0, 99, 1), (100, 100, 2), (101, 7999, 1)]).expect("all slots are there");
        assert_eq!((nodes.with("foo"), nodes.with("bar")), (0, 1));
        let tags = nodes.tags();
        assert_eq!(tags.iter().map(|tag| nodes.with(tag)).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(Nodes::one().tags(), ["0"]);
    }

    #[test]
    fn slots_that_nobody_has_are_seen() {
        for ranges in [vec![], vec![(0, 16382, 0)], vec![(1, 16383, 0)], vec![(0, 5, 0), (7, 16383, 1)]] {
            assert!(Nodes::of_cluster(ranges).is_none());
        }
    }
}
