//! Who sends a request, and what it must be allowed to do.

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, OAuthScopes,
    registry::{MetaSecurityScheme, Registry},
};

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
}

/// The three ways to give a key, each good for every operation.
pub const SCHEMES: [&str; 3] = ["api_key", "bearer", "basic"];

/// Whoever sent the request.
///
/// Keys are not checked yet: a server starts only with `disable_auth=true`, and everybody is let in.
#[derive(Debug)]
pub struct Caller;

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

    async fn from_request(_: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(Self)
    }
}
