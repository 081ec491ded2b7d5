//! Spans to an OpenTelemetry collector: OTLP over HTTP, in JSON (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
//!
//! One kind of span, sent in one way, is this file. The crates that know all of OpenTelemetry bring prost, tonic and a dozen more, and a thread with a client that
//! blocks.

use std::{
    io,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::measure::{Counter, Span, Value};

/// How many spans are sent at once at most, and how long they are gathered.
const BATCH: usize = 512;
const GATHER: Duration = Duration::from_secs(1);

/// How long a collector may take to receive them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where spans are sent.
#[derive(Debug)]
pub struct Collector {
    host: String,
    port: u16,
    path: String,
    /// How many spans it has received.
    pub received: Counter,
    /// How many spans it has not.
    pub lost: Counter,
}

/// Not where a collector can be.
#[derive(Debug, thiserror::Error)]
#[error(
    "otlp_endpoint is not of the form http://host:port (a collector that is reached with TLS needs one on this machine in front of it)"
)]
pub struct NotAnEndpoint;

/// Why spans did not arrive. Nobody waits for them, so this is for the log.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the collector cannot be reached")]
    Connection(#[from] io::Error),
    #[error("the collector does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("the collector took longer than {} s", PATIENCE.as_secs())]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the collector answered {0}")]
    Refused(hyper::StatusCode),
}

impl Collector {
    /// The collector at a base URL, below which `/v1/traces` is.
    ///
    /// # Errors
    ///
    /// [`NotAnEndpoint`].
    pub fn at(endpoint: &str) -> Result<Self, NotAnEndpoint> {
        let url: url::Url = endpoint.parse().map_err(|_| NotAnEndpoint)?;
        let is_plain = url.scheme() == "http" && url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let host = url.host_str().filter(|_| is_plain).ok_or(NotAnEndpoint)?.to_owned();
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        Ok(Self { host, port: url.port_or_known_default().unwrap_or(4318), path, received: Counter::default(), lost: Counter::default() })
    }

    /// Sends what comes, in batches; after `stop` what is there, and then it is done. What cannot be sent is lost.
    pub async fn receive(&self, mut spans: mpsc::Receiver<Span>, stop: CancellationToken) {
        let (mut batch, mut is_lost) = (Vec::with_capacity(BATCH), false);
        loop {
            let is_last = tokio::select! {
                biased;
                count = spans.recv_many(&mut batch, BATCH) => count == 0,
                () = stop.cancelled() => true,
            };
            if batch.is_empty() {
                if is_last {
                    return;
                }
                continue;
            }
            let count = batch.len() as u64;
            let sent = self.send(&batch).await;
            match &sent {
                Ok(()) => self.received.add(count),
                Err(failure) => {
                    self.lost.add(count);
                    let error: &dyn std::error::Error = failure;
                    match is_lost {
                        false => tracing::warn!(error, "spans cannot be exported"),
                        true => tracing::debug!(error, "spans still cannot be exported"),
                    }
                }
            }
            is_lost = sent.is_err();
            let is_full = batch.len() == BATCH;
            batch.clear();
            if !is_full && !stop.is_cancelled() {
                tokio::select! {
                    () = sleep(GATHER) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    async fn send(&self, spans: &[Span]) -> Result<(), Failure> {
        let body = Bytes::from(body(spans).to_string());
        timeout(PATIENCE, async {
            let host = self.host.trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, self.port)).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let request = Request::post(self.path.as_str())
                .header(header::HOST, format!("{}:{}", self.host, self.port))
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::CONNECTION, "close")
                .body(Full::new(body))
                .expect("the path is a URL's");
            let answered = async { sender.send_request(request).await };
            // The connection does the work; its end without an answer is the request's failure.
            let (answer, _) = tokio::join!(answered, async { connection.await.ok() });
            match answer?.status() {
                status if status.is_success() => Ok(()),
                status => Err(Failure::Refused(status)),
            }
        })
        .await?
    }
}

/// As the protocol's `ExportTraceServiceRequest` is written in JSON: ids in hexadecimal, 64-bit numbers as text.
fn body(spans: &[Span]) -> Json {
    let version = env!("CARGO_PKG_VERSION");
    let resource =
        [attribute("service.name", &Value::Text("whatsnext".to_owned())), attribute("service.version", &Value::Text(version.to_owned()))];
    let scope = json!({"name": "whatsnext", "version": version});
    let spans: Vec<Json> = spans.iter().map(written).collect();
    json!({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [{"scope": scope, "spans": spans}]}]})
}

fn written(span: &Span) -> Json {
    let attributes: Vec<Json> = span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    let mut written = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id),
        "name": span.name,
        // A server's.
        "kind": 2,
        "startTimeUnixNano": nanoseconds(span.start),
        "endTimeUnixNano": nanoseconds(span.end),
        "attributes": attributes,
        "status": {"code": if span.has_failed { 2 } else { 0 }},
    });
    if let Some(parent) = span.parent {
        written["parentSpanId"] = format!("{parent:016x}").into();
    }
    written
}

fn attribute(name: &str, value: &Value) -> Json {
    match value {
        Value::Text(text) => json!({"key": name, "value": {"stringValue": text}}),
        Value::Number(number) => json!({"key": name, "value": {"intValue": number.to_string()}}),
    }
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_base() {
        let collector = Collector::at("http://127.0.0.1:4318").expect("an endpoint");
        assert_eq!((collector.host.as_str(), collector.port, collector.path.as_str()), ("127.0.0.1", 4318, "/v1/traces"));
        let collector = Collector::at("http://[::1]/a/").expect("an endpoint");
        assert_eq!((collector.host.as_str(), collector.port, collector.path.as_str()), ("[::1]", 80, "/a/v1/traces"));
        for wrong in ["", "collector:4318", "https://collector:4318", "http://u:p@collector", "http://collector?x=1", "unix:/x"] {
            assert!(Collector::at(wrong).is_err(), "{wrong}");
        }
    }
}
