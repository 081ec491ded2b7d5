//! `/openapi.json`, `/docs` (Swagger UI) and `/redoc`: from inside the program, with no internet at all.
//!
//! poem-openapi carries both pages whole, with the document and the scripts inside. Here their scripts become files of their own, so that a browser keeps
//! them and the pages' content security policy can do without inline scripts.

use std::sync::OnceLock;

use bytes::Bytes;
use poem::{
    EndpointExt, Request, Response, Route,
    endpoint::make_sync,
    http::{HeaderValue, Method, StatusCode, header},
};
use poem_openapi::OpenApiService;

use super::{
    State,
    edge::Bulk,
    reply::in_pieces,
    routes::{Need, Operation, Resource},
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Works with and without a trailing slash. Like the API's own paths, what it names begins at the host's root: a proxy that adds a prefix is to take it away
/// again, and these pages are then not to be had below it.
const DOCS_PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>WhatsNext API</title><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="ui"></div><script src="/docs/swagger-ui.js"></script><script src="/docs/start.js"></script></body>
</html>
"#;

const DOCS_START: &str = "SwaggerUIBundle({ dom_id: '#ui', url: '/openapi.json', deepLinking: true });\n";

const REDOC_PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>WhatsNext API</title>
<style>body { margin: 0; }</style></head>
<body><div id="redoc"></div><script src="/redoc/redoc.js"></script><script src="/redoc/start.js"></script></body>
</html>
"#;

const REDOC_START: &str = "Redoc.init('/openapi.json', {}, document.getElementById('redoc'));\n";

struct Assets {
    swagger_script: Bytes,
    swagger_style: Bytes,
    redoc_script: Bytes,
}

/// Taken out of poem-openapi's pages once, when first asked for.
fn assets() -> &'static Assets {
    static ASSETS: OnceLock<Assets> = OnceLock::new();
    ASSETS.get_or_init(|| {
        let service = OpenApiService::new((), "", "");
        let (swagger, redoc) = (service.swagger_ui_html(), service.redoc_html());
        Assets {
            swagger_script: between(&swagger, "<script charset=\"UTF-8\">", "</script>"),
            swagger_style: between(&swagger, "<style charset=\"UTF-8\">", "</style>"),
            redoc_script: between(&redoc, "<script charset=\"UTF-8\">", "</script>\n"),
        }
    })
}

fn between(text: &str, start: &str, end: &str) -> Bytes {
    let from = text.find(start).map_or(0, |at| at + start.len());
    let to = text[from..].find(end).map_or(from, |at| from + at);
    Bytes::copy_from_slice(&text.as_bytes()[from..to])
}

struct File {
    path: &'static str,
    media_type: &'static str,
    /// What is in it, which may be the document.
    content: fn(document: &Bytes) -> Bytes,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript";

const FILES: [File; 8] = [
    File { path: "/openapi.json", media_type: "application/json", content: Bytes::clone },
    File { path: "/docs", media_type: HTML, content: |_| Bytes::from_static(DOCS_PAGE.as_bytes()) },
    File { path: "/docs/start.js", media_type: SCRIPT, content: |_| Bytes::from_static(DOCS_START.as_bytes()) },
    File { path: "/docs/swagger-ui.js", media_type: SCRIPT, content: |_| assets().swagger_script.clone() },
    File { path: "/docs/swagger-ui.css", media_type: "text/css", content: |_| assets().swagger_style.clone() },
    File { path: "/redoc", media_type: HTML, content: |_| Bytes::from_static(REDOC_PAGE.as_bytes()) },
    File { path: "/redoc/start.js", media_type: SCRIPT, content: |_| Bytes::from_static(REDOC_START.as_bytes()) },
    File { path: "/redoc/redoc.js", media_type: SCRIPT, content: |_| assets().redoc_script.clone() },
];

/// The paths of the documentation.
pub fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|file| file.path)
}

/// Adds the documentation to a route table. Reading it needs what is said, or nothing.
pub fn add_to(route: Route, state: &State, need: Option<&Need>, document: &serde_json::Value) -> Route {
    let document = Bytes::from(serde_json::to_vec(document).expect("a document is JSON"));
    FILES.into_iter().fold(route, |route, file| add_file(route, state, need, file, document.clone()))
}

fn add_file(route: Route, state: &State, need: Option<&Need>, File { path, media_type, content }: File, document: Bytes) -> Route {
    let etag = OnceLock::new();
    let endpoint = make_sync(move |request: Request| {
        let content = content(&document);
        let etag: &HeaderValue = etag.get_or_init(|| etag_of(&content));
        let unchanged = request.headers().get(header::IF_NONE_MATCH) == Some(etag);
        let response = Response::builder()
            .header(header::ETAG, etag)
            .header(header::CACHE_CONTROL, "no-cache")
            .header(header::CONTENT_SECURITY_POLICY, POLICY);
        let mut response = match unchanged {
            true => response.status(StatusCode::NOT_MODIFIED).finish(),
            false => response.content_type(media_type).body(in_pieces(content)),
        };
        response.extensions_mut().insert(Bulk::Shared);
        response
    });
    let operation = Operation { endpoint: endpoint.map_to_response().boxed(), need: need.cloned(), audited: None };
    Resource::new(path, state, vec![(Method::GET, operation)], true).add_to(route)
}

/// The files are the program's own, so any hash that differs with their content will do; this one is FNV-1a.
fn etag_of(content: &[u8]) -> HeaderValue {
    let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    HeaderValue::from_str(&format!("\"{hash:016x}\"")).expect("hexadecimal is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_found_in_the_pages_that_carry_them() {
        let assets = assets();
        assert!(assets.swagger_script.len() > 500_000, "{}", assets.swagger_script.len());
        assert!(assets.swagger_style.len() > 50_000, "{}", assets.swagger_style.len());
        assert!(assets.redoc_script.len() > 500_000, "{}", assets.redoc_script.len());
        assert!(String::from_utf8_lossy(&assets.swagger_script).contains("SwaggerUIBundle"));
        assert!(String::from_utf8_lossy(&assets.redoc_script).contains("Redoc"));
    }
}
