//! What `redis_url` may be: one server, a cluster, or a master that sentinels know.
//!
//! | form | |
//! | --- | --- |
//! | `redis://[user:password@]host[:port][/db]` | one server; also `rediss://` (TLS) and `redis+unix:///path` |
//! | `redis+cluster://[user:password@]host[:port],host[:port],…` | a cluster, by some of its nodes; they tell of the others |
//! | `redis+sentinel://[user:password@]host[:port],host[:port],…/master[/db]` | the master of this name, by its sentinels |
//!
//! `rediss+cluster` and `rediss+sentinel` are the same over TLS, to the sentinels too. User and password are those of the servers that hold data. What
//! sentinels ask for is given at the end: `?sentinel_password=…`, or `?sentinel_user=…&sentinel_password=…`. What has a meaning in a URL is
//! percent-encoded, as everywhere.

use percent_encoding::percent_decode_str;

use crate::config::is_loopback;

/// Where a server that holds data listens if nothing else is said.
const PORT: u16 = 6379;

/// Where a sentinel does.
const SENTINEL_PORT: u16 = 26379;

/// What a URL describes. The URLs in it are those of single servers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What [`redis::Client`] understands, if anything does.
    One,
    /// A cluster, by the URLs of these nodes.
    Cluster(Vec<String>),
    /// A master that sentinels know.
    Sentinel {
        /// The sentinels' URLs.
        sentinels: Vec<String>,
        /// What they call the master.
        name: String,
        /// What its URL is.
        master: Master,
    },
}

/// The URL of a master whose address is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Master {
    before: String,
    db: u32,
}

impl Master {
    /// Its URL, once the address is known.
    pub(super) fn at(&self, host: &str, port: u16) -> String {
        let brackets = if host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{}{}{host}{}:{port}/{}", self.before, brackets.0, brackets.1, self.db)
    }
}

/// Reads a URL; nothing if it has none of the forms.
pub(super) fn place(url: &str) -> Option<Place> {
    let (scheme, rest) = url.split_once("://")?;
    let Some((scheme @ ("redis" | "rediss"), kind @ ("cluster" | "sentinel"))) = scheme.split_once('+') else { return Some(Place::One) };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, hosts) = match authority.rfind('@') {
        Some(at) => authority.split_at(at + 1),
        None => ("", authority),
    };
    if kind == "cluster" {
        let nodes = each(hosts, scheme, credentials, PORT)?;
        // A cluster has no other database.
        return (matches!(path, "" | "0") && query.is_empty()).then_some(Place::Cluster(nodes));
    }
    let (name, db) = path.split_once('/').unwrap_or((path, "0"));
    let name = percent_decode_str(name).decode_utf8().ok().filter(|name| !name.is_empty())?.into_owned();
    let db = if db.is_empty() { 0 } else { db.parse().ok()? };
    let sentinels = each(hosts, scheme, &sentinel_credentials(query)?, SENTINEL_PORT)?;
    Some(Place::Sentinel { sentinels, name, master: Master { before: format!("{scheme}://{credentials}"), db } })
}

/// Whether it leads to another machine without TLS.
pub(super) fn is_open(url: &str) -> bool {
    let urls = match place(url) {
        Some(Place::One) => vec![url.to_owned()],
        Some(Place::Cluster(nodes)) => nodes,
        Some(Place::Sentinel { sentinels, .. }) => sentinels,
        None => Vec::new(),
    };
    urls.iter().filter_map(|url| url::Url::parse(url).ok()).any(|url| {
        let is_tls = matches!(url.scheme(), "rediss" | "valkeys");
        !is_tls && url.host_str().is_some_and(|host| !host.is_empty() && !is_loopback(host))
    })
}

/// The URL of each host of a list.
fn each(hosts: &str, scheme: &str, credentials: &str, default_port: u16) -> Option<Vec<String>> {
    let url = |host: &str| {
        let has_port = !host.ends_with(']') && host.contains(':');
        let url =
            if has_port { format!("{scheme}://{credentials}{host}/") } else { format!("{scheme}://{credentials}{host}:{default_port}/") };
        let has_host = url::Url::parse(&url).ok()?.host_str().is_some_and(|host| !host.is_empty());
        has_host.then_some(url)
    };
    hosts.split(',').map(str::trim).map(url).collect()
}

/// `user:password@`, as far as a query gives them.
fn sentinel_credentials(query: &str) -> Option<String> {
    let (mut user, mut password) = ("", None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("sentinel_user", value) => user = value,
            ("sentinel_password", value) => password = Some(value),
            _ => return None,
        }
    }
    match password {
        Some(password) => Some(format!("{user}:{password}@")),
        None => user.is_empty().then(String::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_a_cluster_nor_sentinels_is_one_server() {
        for url in ["redis://:p@h:1/2", "rediss://h", "redis+unix:///tmp/s", "unix:///tmp/s", "http://h"] {
            assert_eq!(place(url), Some(Place::One), "{url}");
        }
    }

    #[test]
    fn without_tls_only_this_machine_is_safe() {
        for open in [
            "redis://cache",
            "redis://:p@10.0.0.7:6379/0",
            "redis+cluster://u:p@localhost,cache:7000",
            "redis+sentinel://:p@[::1],sentinel/m/0",
        ] {
            assert!(is_open(open), "{open}");
            assert!(!is_open(&open.replacen("redis", "rediss", 1)), "{open} with TLS");
        }
        for safe in [
            "redis://localhost",
            "redis://:p@127.0.0.1:6379/0",
            "redis://[::1]/",
            "redis+unix:///tmp/s",
            "redis+cluster://[::1],localhost:1",
        ] {
            assert!(!is_open(safe), "{safe}");
        }
    }

    #[test]
    fn a_cluster_is_some_of_its_nodes() {
        let nodes = |nodes: &[&str]| Some(Place::Cluster(nodes.iter().map(|&node| node.to_owned()).collect()));
        assert_eq!(place("redis+cluster://a,b:7000, [::1]:7001"), nodes(&["redis://a:6379/", "redis://b:7000/", "redis://[::1]:7001/"]));
        assert_eq!(place("rediss+cluster://u:p%40@a,[::1]/0"), nodes(&["rediss://u:p%40@a:6379/", "rediss://u:p%40@[::1]:6379/"]));
        for wrong in ["redis+cluster://", "redis+cluster://a,,b", "redis+cluster://a:port", "redis+cluster://a/1", "redis+cluster://a?x=1"]
        {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sentinels_name_the_master_and_may_have_a_password_of_their_own() {
        let Some(Place::Sentinel { sentinels, name, master }) = place("redis+sentinel://u:p@a,b:1/my%2Fmaster/3?sentinel_password=q%26")
        else {
            panic!("sentinels");
        };
        assert_eq!(sentinels, ["redis://:q%26@a:26379/", "redis://:q%26@b:1/"]);
        assert_eq!(name, "my/master");
        assert_eq!(master.at("10.0.0.1", 6380), "redis://u:p@10.0.0.1:6380/3");
        assert_eq!(master.at("::1", 6380), "redis://u:p@[::1]:6380/3");
        assert!(matches!(place("rediss+sentinel://a/m"), Some(Place::Sentinel { master, .. }) if master.at("h", 1) == "rediss://h:1/0"));
        for wrong in ["", "/", "/m/x", "/m/0/1", "/m?sentinel_user=u", "/m?password=x"] {
            assert_eq!(place(&format!("redis+sentinel://a{wrong}")), None, "{wrong}");
        }
    }
}
