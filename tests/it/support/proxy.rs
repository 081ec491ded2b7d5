//! A way to a real store that can be cut, be slow or fall silent, and that can speak TLS in front of PostgreSQL.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::{PASSWORD, RedisServer, TestDatabase, Tls, store_url};

/// PostgreSQL's request for TLS: the length and the code.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Where the store really is.
#[derive(Clone)]
enum Target {
    Tcp(String),
    Unix(String),
}

/// How bytes are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// At once there, and answers this much later.
    Late(Duration),
    /// Not at all, either way, and without a word.
    Silent,
}

/// The proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    manner: watch::Sender<Manner>,
    encrypted: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    credentials: String,
}

impl Proxy {
    /// In front of PostgreSQL.
    pub(crate) async fn to_postgresql() -> Self {
        Self::start(postgresql(), None).await
    }

    /// In front of PostgreSQL, offering TLS.
    pub(crate) async fn to_postgresql_over(tls: &Tls) -> Self {
        Self::start(postgresql(), Some(tls.acceptor.clone())).await
    }

    /// In front of Redis.
    pub(crate) async fn to_redis() -> Self {
        let url = url::Url::parse(&store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap();
        let target = match url.host_str() {
            Some(host) => Target::Tcp(format!("{host}:{}", url.port().unwrap_or(6379))),
            None => Target::Unix(url.path().to_owned()),
        };
        Self::start(target, None).await
    }

    /// In front of a Redis of the test's own.
    pub(crate) async fn to(redis: &RedisServer) -> Self {
        let credentials = format!(":{}@", PASSWORD.1);
        Self { credentials, ..Self::start(Target::Tcp(redis.address()), None).await }
    }

    async fn start(target: Target, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let whole = watch::Sender::new(true);
        let manner = watch::Sender::new(Manner::Late(Duration::ZERO));
        let manners = manner.subscribe();
        let encrypted = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicU64::new(0));
        let (watch, seen, counter) = (whole.clone(), encrypted.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (target, acceptor, mut state, seen) = (target.clone(), acceptor.clone(), watch.subscribe(), seen.clone());
                let (manners, counter) = (manners.clone(), counter.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = state.wait_for(|whole| !whole) => {}
                        _ = forward(stream, target, acceptor, &manners, &seen, &counter) => {}
                    }
                });
            }
        });
        Self { address, whole, manner, encrypted, asked, credentials: String::new() }
    }

    /// Ends all connections and lets no new one live.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }

    /// Answers come this much later from now on; half an hour is for ever.
    pub(crate) fn slow_down(&self, by: Duration) {
        self.manner.send_replace(Manner::Late(by));
    }

    /// As a peer that vanished without a word, until [`Proxy::slow_down`]: nothing arrives, and connections stay open.
    pub(crate) fn fall_silent(&self) {
        self.manner.send_replace(Manner::Silent);
    }

    /// Whether the last connection that began to talk was encrypted.
    pub(crate) fn last_was_encrypted(&self) -> bool {
        self.encrypted.load(Ordering::SeqCst)
    }

    /// How many bytes were sent to the store.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// The database's URL through this proxy.
    pub(crate) fn database_url(&self, database: &TestDatabase) -> String {
        let config: tokio_postgres::Config = database.url().parse().unwrap();
        let user = config.get_user().unwrap_or("postgres");
        let password = config.get_password().map(|password| format!(":{}", String::from_utf8_lossy(password))).unwrap_or_default();
        format!("postgres://{user}{password}@localhost:{}/{}", self.address.port(), config.get_dbname().unwrap())
    }

    /// Redis's URL through this proxy.
    pub(crate) fn redis_url(&self) -> String {
        format!("redis://{}{}/", self.credentials, self.address)
    }
}

fn postgresql() -> Target {
    let config: tokio_postgres::Config = store_url("WHATSNEXT_TEST_DATABASE_URL").parse().unwrap();
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match &config.get_hosts()[0] {
        tokio_postgres::config::Host::Tcp(host) => Target::Tcp(format!("{host}:{port}")),
        tokio_postgres::config::Host::Unix(folder) => Target::Unix(format!("{}/.s.PGSQL.{port}", folder.display())),
    }
}

async fn forward(
    mut stream: TcpStream,
    target: Target,
    acceptor: Option<TlsAcceptor>,
    manners: &watch::Receiver<Manner>,
    encrypted: &AtomicBool,
    asked: &AtomicU64,
) -> io::Result<()> {
    let mut first = [0; 8];
    stream.peek(&mut first).await?;
    if first != SSL_REQUEST {
        encrypted.store(false, Ordering::SeqCst);
        return join(stream, target, manners, asked).await;
    }
    stream.read_exact(&mut first).await?;
    match acceptor {
        None => {
            stream.write_all(b"N").await?;
            encrypted.store(false, Ordering::SeqCst);
            join(stream, target, manners, asked).await
        }
        Some(acceptor) => {
            stream.write_all(b"S").await?;
            let stream = acceptor.accept(stream).await?;
            encrypted.store(true, Ordering::SeqCst);
            join(stream, target, manners, asked).await
        }
    }
}

async fn join(stream: impl AsyncRead + AsyncWrite, target: Target, manners: &watch::Receiver<Manner>, asked: &AtomicU64) -> io::Result<()> {
    match target {
        Target::Tcp(address) => both_ways(stream, TcpStream::connect(address).await?, manners, asked).await,
        Target::Unix(path) => both_ways(stream, UnixStream::connect(path).await?, manners, asked).await,
    }
}

async fn both_ways(
    near: impl AsyncRead + AsyncWrite,
    far: impl AsyncRead + AsyncWrite,
    manners: &watch::Receiver<Manner>,
    asked: &AtomicU64,
) -> io::Result<()> {
    let ((near_reader, near_writer), (far_reader, far_writer)) = (tokio::io::split(near), tokio::io::split(far));
    let there = pass(near_reader, far_writer, manners.clone(), Some(asked));
    let back = pass(far_reader, near_writer, manners.clone(), None);
    tokio::try_join!(there, back).map(drop)
}

/// One way: back, or there, where what is asked is counted.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut manners: watch::Receiver<Manner>,
    asked: Option<&AtomicU64>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        if let Some(asked) = asked {
            asked.fetch_add(length as u64, Ordering::SeqCst);
        }
        let manner = *manners.borrow();
        match manner {
            Manner::Late(by) if asked.is_none() => tokio::time::sleep(by).await,
            Manner::Late(_) => {}
            Manner::Silent => {
                // What was sent meanwhile is lost, and so is the connection once anybody speaks again.
                manners.wait_for(|manner| *manner != Manner::Silent).await.map_err(io::Error::other)?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        to.write_all(&buffer[..length]).await?;
    }
}
