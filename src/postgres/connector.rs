//! How connections are made, by settings that may change while a server runs.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{ConfigConnectImpl, Connect};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_postgres::{Config, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{SetupError, settings::connection_config, tls};
use crate::config::{DatabaseTls, Settings};

type Connected = Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error>;

/// Makes connections; clones are the same.
#[derive(Clone)]
pub(super) struct Connector(watch::Sender<Arc<Target>>);

/// What to connect to, and as whom.
pub(super) struct Target {
    config: Config,
    /// Which certificates are believed.
    trust: (DatabaseTls, PathBuf),
    connect: ConfigConnectImpl<MakeRustlsConnect>,
    /// How long one that PostgreSQL refuses waits for another password: between the moment when it is changed there and the one when it is known here,
    /// nobody needs to be told. Then a third of the time is left in which a connection must be there.
    patience: Duration,
    /// Connections that are older are of another target.
    pub(super) since: Instant,
}

impl Target {
    /// What these settings describe.
    pub(super) fn new(settings: &Settings) -> Result<Self, SetupError> {
        let (config, tls) = (connection_config(settings)?, tls::connector(settings)?);
        let patience = Duration::from_secs(settings.database_connect_timeout_seconds) * 2 / 3;
        let trust = (settings.database_tls, settings.database_ca_file.clone());
        Ok(Self { patience, config, trust, connect: ConfigConnectImpl { tls }, since: Instant::now() })
    }

    /// A connection outside of the pool.
    pub(super) async fn connect(&self) -> Connected {
        self.connect.connect(&self.config).await
    }

    /// Whether it is what is connected to already, as far as the file with the authorities to trust has not changed.
    pub(super) fn is_that_of(&self, connector: &Connector) -> bool {
        let current = connector.target();
        self.config == current.config && self.trust == current.trust
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.connect.tls.clone()
    }
}

impl Connector {
    pub(super) fn new(target: Target) -> Self {
        Self(watch::Sender::new(Arc::new(target)))
    }

    /// What is connected to now.
    pub(super) fn target(&self) -> Arc<Target> {
        self.0.borrow().clone()
    }

    /// Connects to something else from now on.
    pub(super) fn turn_to(&self, target: Target) {
        self.0.send_replace(Arc::new(Target { since: Instant::now(), ..target }));
    }
}

impl Connect for Connector {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        Box::pin(async {
            let mut current = self.0.subscribe();
            loop {
                let target = current.borrow_and_update().clone();
                match target.connect().await {
                    Err(error) if is_refused(&error) => {
                        if timeout(target.patience, current.changed()).await.is_err() {
                            return Err(error);
                        }
                    }
                    // Another target came meanwhile.
                    Ok(_) if current.has_changed().unwrap_or(false) => {}
                    connected => return connected,
                }
            }
        })
    }
}

/// Whether it is the password, or the name.
fn is_refused(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION))
}
