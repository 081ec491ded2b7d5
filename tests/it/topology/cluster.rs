//! A cluster of the test's own.

use std::time::Duration;

use futures_util::future::join_all;
use redis::cluster_routing::Slot;
use whatsnext::access::{Grants, Key, Role};

use super::PATIENCE;
use crate::support::{Authority, PASSWORD, Pair, RedisServer, TestDatabase, free_port, make_key_with, tls_arguments, within};

/// The first and the last slot of each of the three masters.
const RANGES: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// Three masters, each with a third of the slots, and perhaps a replica of the second.
pub(super) struct Cluster(pub(super) Vec<RedisServer>);

impl Cluster {
    pub(super) async fn start() -> Self {
        Self::of(3).await
    }

    /// With a fourth node that can take the place of the second.
    pub(super) async fn start_with_replica() -> Self {
        let cluster = Self::of(4).await;
        let second = cluster.id(1).await;
        within(PATIENCE, "the replica follows", async || {
            cluster.0[3].ask::<()>(&["CLUSTER", "REPLICATE", &second]).await.is_ok()
                && cluster.0[3].ask::<String>(&["INFO", "replication"]).await.is_ok_and(|info| info.contains("master_link_status:up"))
        })
        .await;
        cluster
    }

    async fn of(count: usize) -> Self {
        Self::joined(join_all((0..count).map(|_| RedisServer::start_node(&[]))).await).await
    }

    /// One of which all nodes speak TLS, and its URL for that.
    pub(super) async fn start_with_tls(authority: &Authority, pair: &Pair) -> (Self, String) {
        let ports = RANGES.map(|_| free_port());
        let nodes = ports.map(|port| async move {
            let more = ["--tls-cluster", "yes"].map(ToOwned::to_owned);
            RedisServer::start_node(&[&more, &tls_arguments(authority, pair, port)[..]].concat()).await
        });
        let url = format!("rediss+cluster://:{}@127.0.0.1:{},127.0.0.1:{}", PASSWORD.1, ports[0], ports[1]);
        (Self::joined(join_all(nodes).await).await, url)
    }

    async fn joined(nodes: Vec<RedisServer>) -> Self {
        for (node, (first, last)) in nodes.iter().zip(RANGES) {
            node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await.expect("the slots are taken");
        }
        for (n, node) in nodes.iter().enumerate() {
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await.expect("an epoch");
            let bus: Vec<String> = node.ask(&["CONFIG", "GET", "cluster-port"]).await.expect("its bus");
            nodes[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), &bus[1]]).await.expect("they meet");
        }
        let cluster = Self(nodes);
        cluster.until_it_is_whole().await;
        cluster
    }

    pub(super) async fn until_it_is_whole(&self) {
        let known = format!("cluster_known_nodes:{}", self.0.len());
        within(PATIENCE, "all nodes say that the cluster is whole", async || {
            let states = join_all(self.0.iter().map(|node| node.ask::<String>(&["CLUSTER", "INFO"]))).await;
            let is_whole = |state: &String| state.contains("cluster_state:ok") && state.contains(&known);
            states.iter().all(|state| state.as_ref().is_ok_and(is_whole))
        })
        .await;
    }

    /// Some of its nodes are enough.
    pub(super) fn url(&self) -> String {
        format!("redis+cluster://:{}@{},{}", PASSWORD.1, self.0[0].address(), self.0[1].address())
    }

    /// For each master a key of the service that lives there.
    pub(super) async fn keys(&self, database: &TestDatabase, limit: u32) -> Vec<Key> {
        let mut keys = [None, None, None];
        while keys.iter().any(Option::is_none) {
            let key = make_key_with(database, Grants::All(Role::Reader), |new| new.rate_limit = Some(limit)).await;
            let slot = Slot::for_key(key.id().to_string());
            let master = RANGES.iter().position(|(first, last)| (*first..=*last).any(|n| Slot::new(n) == Some(slot)));
            keys[master.expect("each slot is somewhere")] = Some(key);
        }
        keys.into_iter().flatten().collect()
    }

    /// Moves a key's slot from one master to another, key by key.
    pub(super) async fn move_slot(&self, key: &Key, from: usize, to: usize) {
        let (source, target) = (self.id(from).await, self.id(to).await);
        let slot: u16 = self.0[from].ask(&["CLUSTER", "KEYSLOT", &key.id().to_string()]).await.expect("a slot");
        let slot = slot.to_string();
        self.0[to].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await.expect("it imports");
        self.0[from].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await.expect("it migrates");
        let port = self.0[to].port.to_string();
        loop {
            let names: Vec<String> = self.0[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).await.expect("what is in the slot");
            let [name] = &names[..] else { break };
            self.0[from].ask::<()>(&["MIGRATE", "127.0.0.1", &port, name, "0", "1000", "AUTH", PASSWORD.0]).await.expect("it moves");
            // So that requests meet a slot that is half here and half there.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for node in [to, from, 3 - from - to] {
            self.0[node].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await.expect("it has moved");
        }
    }

    async fn id(&self, node: usize) -> String {
        self.0[node].ask(&["CLUSTER", "MYID"]).await.expect("an id")
    }
}
