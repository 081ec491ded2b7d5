//! Who sends a request, and what it must be allowed to do.

use std::ops::Deref;

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, OAuthScopes,
    registry::{MetaSecurityScheme, Registry},
};

use crate::{access, api::admission::Principal};

/// What a key can be good for. Every operation names the one that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, OAuthScopes)]
pub enum Scope {
    /// Every GET but the one that claims.
    #[oai(rename = "read")]
    Read,
    /// Adding, changing, deleting and cancelling jobs.
    #[oai(rename = "submit")]
    Submit,
    /// Claiming and reporting, and what a client says of itself.
    #[oai(rename = "work")]
    Work,
    /// Creating, changing and deleting projects and tasks.
    #[oai(rename = "manage")]
    Manage,
    /// Keys, users, limits.
    #[oai(rename = "admin")]
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Submit, Self::Work, Self::Manage, Self::Admin];
}

impl From<Scope> for access::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Read => Self::Read,
            Scope::Submit => Self::Submit,
            Scope::Work => Self::Work,
            Scope::Manage => Self::Manage,
            Scope::Admin => Self::Admin,
        }
    }
}

/// The three ways to give a key, each good for every operation.
pub const SCHEMES: [&str; 3] = ["api_key", "bearer", "basic"];

/// Whoever sent the request. They may do what the operation needs somewhere; where it matters in which project, the operation asks.
#[derive(Debug)]
pub struct Caller(pub Principal);

impl Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.0
    }
}

impl<'a> ApiExtractor<'a> for Caller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let http = |scheme, description| MetaSecurityScheme {
            ty: "http",
            description: Some(description),
            name: None,
            key_in: None,
            scheme: Some(scheme),
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        };
        let header = MetaSecurityScheme {
            ty: "apiKey",
            description: Some("The key in a header of its own."),
            name: Some("X-API-Key"),
            key_in: Some("header"),
            ..http("", "")
        };
        let [api_key, bearer, basic] = SCHEMES;
        registry.create_security_scheme(api_key, MetaSecurityScheme { scheme: None, ..header });
        registry.create_security_scheme(bearer, http("bearer", "The key as a bearer token."));
        registry.create_security_scheme(basic, http("basic", "The key as the password; any user name will do."));
    }

    fn security_schemes() -> Vec<&'static str> {
        SCHEMES.to_vec()
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        let principal: &Principal = request.data().expect("routes let nobody through without one");
        Ok(Self(principal.clone()))
    }
}
