//! From the operations to a route table: each path with and without a trailing slash, HEAD and OPTIONS as HTTP says, 405 with `Allow`.

use std::{collections::HashMap, sync::Arc};

use poem::{
    Endpoint, EndpointExt, IntoResponse, Request, Response, Result, Route,
    endpoint::BoxEndpoint,
    http::{HeaderValue, Method, StatusCode, header},
};
use poem_openapi::OpenApi;

use super::{Error, document, extract::PathNames};

/// The path that a request matched, as in the document. Found on answers and errors, for the log.
#[derive(Debug, Clone)]
pub struct MatchedPath(pub Arc<str>);

/// All methods of one path.
pub struct Resource {
    methods: Vec<(Method, BoxEndpoint<'static>)>,
    /// Whether GET changes nothing, so that HEAD may be answered by it.
    get_is_safe: bool,
    allow: HeaderValue,
    path: MatchedPath,
    names: PathNames,
}

impl Resource {
    /// The resource at `path` (as the document writes it) that takes these methods.
    pub fn new(path: &str, methods: Vec<(Method, BoxEndpoint<'static>)>, get_is_safe: bool) -> Self {
        let mut allowed: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
        if get_is_safe && allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        allowed.push("OPTIONS");
        allowed.sort_unstable();
        let allow = HeaderValue::from_str(&allowed.join(", ")).expect("methods are ASCII");
        let names = path.split('/').filter_map(|part| Some(part.strip_prefix('{')?.strip_suffix('}')?.to_owned())).collect();
        Self { methods, get_is_safe, allow, path: MatchedPath(path.into()), names: PathNames(names) }
    }

    /// Adds it to the route table, with and without a trailing slash.
    pub fn add_to(self, route: Route) -> Route {
        let path = numbered(&self.path.0);
        let resource = Arc::new(self);
        let route = route.at(&path, resource.clone());
        if path == "/" { route } else { route.at(format!("{path}/"), resource) }
    }

    fn endpoint(&self, method: &Method) -> Option<&BoxEndpoint<'static>> {
        let wanted = if *method == Method::HEAD && self.get_is_safe { &Method::GET } else { method };
        self.methods.iter().find(|(method, _)| method == wanted).map(|(_, endpoint)| endpoint)
    }

    async fn answer(&self, mut request: Request) -> Result<Response> {
        request.set_data(self.names.clone());
        match self.endpoint(request.method()) {
            Some(endpoint) => endpoint.call(request).await,
            None if request.method() == Method::OPTIONS => {
                Ok(StatusCode::NO_CONTENT.with_header(header::ALLOW, self.allow.clone()).into_response())
            }
            None => {
                let detail = format!("This path takes {}.", self.allow.to_str().unwrap_or_default());
                Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, detail).with_header(header::ALLOW, self.allow.clone()).into())
            }
        }
    }
}

impl Endpoint for Resource {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let mut answer = self.answer(request).await;
        match &mut answer {
            Ok(response) => drop(response.extensions_mut().insert(self.path.clone())),
            Err(error) => error.set_data(self.path.clone()),
        }
        answer
    }
}

/// The route table of an API.
pub fn routes<T: OpenApi>(api: T) -> Route {
    let mut endpoints = HashMap::new();
    api.add_routes(&mut endpoints);
    let mut by_path: HashMap<String, HashMap<Method, BoxEndpoint<'static>>> = endpoints;
    let paths = T::meta().into_iter().flat_map(|meta| meta.paths);
    paths.fold(Route::new(), |route, meta| {
        let get_is_safe = meta.operations.iter().all(|operation| operation.method != Method::GET || document::is_safe(operation));
        let methods =
            by_path.remove(&numbered(&meta.path)).unwrap_or_default().into_iter().map(|(method, endpoint)| (method, endpoint.boxed()));
        Resource::new(&meta.path, methods.collect(), get_is_safe).add_to(route)
    })
}

/// A path of the document as the route table has it: the framework numbers parameters.
fn numbered(path: &str) -> String {
    let mut number = 0;
    let parts = path.split('/').map(|part| match part.starts_with('{') {
        true => {
            number += 1;
            format!(":param{}", number - 1)
        }
        false => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}
