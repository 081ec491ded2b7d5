//! TLS to the database, by rustls with ring.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::SetupError;
use crate::config::{DatabaseTls, Settings, any_server, read_authorities};

/// The connector that `database_tls` asks for.
pub(super) fn connector(settings: &Settings) -> Result<MakeRustlsConnect, SetupError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(SetupError::Tls)?;
    let config = match settings.database_tls {
        DatabaseTls::VerifyFull => builder.with_root_certificates(authorities(settings)?).with_no_client_auth(),
        // Nobody's certificate is looked at, as the settings are documented.
        DatabaseTls::Disable | DatabaseTls::Prefer | DatabaseTls::Require => {
            builder.dangerous().with_custom_certificate_verifier(any_server(provider)).with_no_client_auth()
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

fn authorities(settings: &Settings) -> Result<RootCertStore, SetupError> {
    let file = &settings.database_ca_file;
    if file.as_os_str().is_empty() {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    }
    Ok(read_authorities(file)?.1)
}
